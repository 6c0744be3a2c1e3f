"""What a runtime must enforce because a policy mentions it."""

from __future__ import annotations

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.isolation import WORKSPACE

from .grants import PathGrant
from .model import Policy

_OF_FIELD = {
    "timeout_ms": Control.TIMEOUT,
    "output_bytes": Control.OUTPUT,
    "env": Control.ENV,
    "network": Control.NETWORK,
    "mem_mb": Control.MEMORY,
    "cpus": Control.CPU,
    "cpu_ms": Control.CPU_TIME,
    "pids": Control.PIDS,
    "nofile": Control.NOFILE,
    "disk_mb": Control.DISK,
    "disk_files": Control.DISK_FILES,
    "io_mb_s": Control.IO,
    "iops": Control.IO,
    "bandwidth_kb_s": Control.BANDWIDTH,
}


def whole(paths: tuple[PathGrant, ...]) -> bool:
    """Whether these are all that there is to touch: a sandbox's own files, read-write, and
    host directories, which appear with the mode they are granted in. Then the walls of the
    sandbox alone hold them, and nothing is left to take away inside."""
    own = [(grant.path, grant.mode) for grant in paths if grant.host is None]
    return own == [(WORKSPACE, "rw")] or (
        not own and any(grant.path == WORKSPACE for grant in paths)
    )


def required_controls(policy: Policy) -> frozenset[Control]:
    """The controls that must be in force for a call under `policy`.

    `tools`, `capabilities`, `rules`, `max_concurrent`, `workdir`, `min_isolation` and
    `tool_isolation` need none: the daemon itself holds them.
    """
    needed = {control for field, control in _OF_FIELD.items() if getattr(policy, field) is not None}
    if policy.paths is not None:
        needed.add(Control.FILESYSTEM)
        if not whole(policy.paths):
            needed.add(Control.PATHS)
        if any(grant.host is not None for grant in policy.paths):
            needed.add(Control.HOST_PATHS)
    if policy.network is not None and not policy.network.reaches_nothing:
        needed.add(Control.EGRESS)
    return frozenset(needed)
