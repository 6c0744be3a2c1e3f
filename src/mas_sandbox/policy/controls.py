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
    "pids": Control.PIDS,
    "disk_mb": Control.DISK,
    "io_mb_s": Control.IO,
    "iops": Control.IO,
    "bandwidth_kb_s": Control.BANDWIDTH,
}


def required_controls(policy: Policy) -> frozenset[Control]:
    """The controls that must be in force for a call under `policy`.

    `tools`, `capabilities`, `rules`, `max_concurrent`, `workdir` and `min_isolation`
    need none: the daemon itself holds them.
    """
    needed = {control for field, control in _OF_FIELD.items() if getattr(policy, field) is not None}
    if policy.paths is not None:
        needed |= {Control.PATHS, Control.FILESYSTEM}
        if any(grant.host is not None for grant in policy.paths):
            needed.add(Control.HOST_PATHS)
    return frozenset(needed)


def needs_egress(policy: Policy) -> bool:
    """Whether some connection is allowed, so that the sandbox needs a way out.

    NETWORK alone promises "no network"; an allowlist takes the daemon's egress too.
    """
    return policy.network is not None and not policy.network.reaches_nothing
