"""Limits on block devices, for runtimes whose processes reach the host's files themselves."""

from __future__ import annotations

from collections.abc import Sequence

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .base import SandboxSpec
from .cgroup import Cgroups
from .cgroup_limits import IoLimit, block_devices


def io_limit(spec: SandboxSpec, visible: Sequence[str], cgroups: Cgroups) -> IoLimit | None:
    """What a control group is to hold; None where the spec has no such limit.

    `visible`: what every sandbox sees of the host. Scratch space lies in memory and needs
    no limit. Raises SandboxError `policy_unenforceable` for what a group cannot hold here.
    """
    if spec.io_mb_s is None and spec.iops is None:
        return None
    if any(mount.writable for mount in spec.mounts) and not cgroups.holds_late_writes:
        # Version 1 charges what the kernel writes out later to the kernel itself.
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            "io_mb_s and iops cannot hold writes to a host directory under cgroup v1; boot with "
            "cgroup v2 (systemd.unified_cgroup_hierarchy=1), or make its path read-only",
        )
    try:
        devices = block_devices([*visible, *(mount.host for mount in spec.mounts)])
    except OSError as error:
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"io_mb_s and iops: {error}; leave them out, or use -runtime microvm",
        ) from error
    return IoLimit(
        devices,
        bytes_per_s=None if spec.io_mb_s is None else spec.io_mb_s << 20,
        operations_per_s=spec.iops,
    )
