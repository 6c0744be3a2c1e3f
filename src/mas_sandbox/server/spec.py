"""From a policy to what a sandbox is built with, and to what one call is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mas_sandbox.runtimes.base import Mount, SandboxSpec
from mas_sandbox.wire.isolation import WORKSPACE
from mas_sandbox.wire.messages import Call

if TYPE_CHECKING:
    from mas_sandbox.policy.model import Policy

SEARCH_URL = "MAS_SANDBOX_SEARCH_URL"
"""The variable that tells `web_search`, and no other tool, what it asks."""
LIMITS = ("mem_mb", "cpus", "pids", "disk_mb", "disk_files", "io_mb_s", "iops")
"""What is fixed when a sandbox is built: a later call cannot change it."""


def sandbox_spec(policy: Policy, extensions: tuple[tuple[str, str], ...] = ()) -> SandboxSpec:
    """A limit that the policy never mentions stays None."""
    return SandboxSpec(
        **{name: getattr(policy, name) for name in LIMITS},
        mounts=_mounts(policy),
        **_devices(policy),
        extensions=extensions,
    )


def _devices(policy: Policy) -> dict[str, Any]:
    """What a machine with a network device of its own is told: only where it could reach
    something, so that all other sandboxes stay interchangeable."""
    if policy.network is None or not policy.network.cidrs:
        return {}
    return {"network": policy.network, "bandwidth_kb_s": policy.bandwidth_kb_s}


def _mounts(policy: Policy) -> tuple[Mount, ...]:
    """The host directories, outer before inner ones."""
    mounts = [
        Mount(grant.path, grant.host, grant.mode == "rw")
        for grant in policy.paths or ()
        if grant.host is not None
    ]
    return tuple(sorted(mounts, key=lambda mount: mount.path))


def guest_call(
    tool: str, args: Mapping[str, Any], policy: Policy, environment: Mapping[str, str]
) -> Call:
    """What the toolrunner is told. `environment`: of it, only the names that the policy
    lists go in, and a listed name that is not set is left out."""
    call = Call(
        tool,
        dict(args),
        timeout_ms=policy.timeout_ms or 0,
        cpu_ms=policy.cpu_ms or 0,
        env={name: environment[name] for name in policy.env or () if name in environment},
        cwd=policy.workdir or WORKSPACE,
        paths=None
        if policy.paths is None
        else [(grant.path, str(grant.mode)) for grant in policy.paths],
    )
    if policy.output_bytes is not None:
        call.output_bytes = policy.output_bytes
    if tool == "web_search" and SEARCH_URL in environment:
        call.env[SEARCH_URL] = environment[SEARCH_URL]
    if policy.nofile is not None:
        call.nofile = policy.nofile
    return call
