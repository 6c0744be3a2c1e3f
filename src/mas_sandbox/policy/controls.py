"""What a runtime must enforce because a policy mentions it."""

from __future__ import annotations

from mas_sandbox.wire.controls import Control

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


def required_controls(policy: Policy) -> frozenset[Control]:
    """The controls that must be in force for a call under `policy`.

    `tools`, `capabilities`, `rules`, `max_concurrent`, `workdir`, `min_isolation` and
    `tool_isolation` need none: the daemon itself holds them.
    """
    needed = {control for field, control in _OF_FIELD.items() if getattr(policy, field) is not None}
    if policy.paths is not None:
        needed |= {Control.PATHS, Control.FILESYSTEM}
        if any(grant.host is not None for grant in policy.paths):
            needed.add(Control.HOST_PATHS)
    if policy.network is not None and not policy.network.reaches_nothing:
        needed.add(Control.EGRESS)
    return frozenset(needed)
