"""The control group that the config file's `cgroup` section asks for, one for each machine.

Its path is the operator's, beneath the top of the cgroup tree; with version 1, beneath the
top of each controller's. Sources: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..cgroup import Group
from ..cgroup_find import mounts
from .config import CgroupConfig

Setting = tuple[str, str, str]
"""Controller, file and what is written to it; without a file, the group alone is wanted."""


def create_machine_group(config: CgroupConfig) -> Group:
    """Make the group, with every limit in force; `config` is one machine's own.

    Raises SandboxError `policy_unenforceable` when a limit cannot be set; nothing is left.
    """
    group = Group()
    wanted = {2: _version_2(config), 1: _version_1(config)}
    try:
        for version, controllers, _, top in mounts():
            settings = [each for each in wanted[version] if each[0] in controllers]
            if not settings or not _works(version, top, settings):
                continue
            directory = _make(version, top, config.path)
            group.directories.append(directory)
            for controller, name, value in settings:
                if name:
                    (directory / name).write_text(value)
                if controller == "memory":
                    group.memory = directory
                if version == 2 or controller == "cpuacct":
                    group.counting = directory
            done = {controller for controller, _, _ in settings}
            wanted = {v: [s for s in kept if s[0] not in done] for v, kept in wanted.items()}
        left = sorted({controller for controller, _, _ in wanted[2]})
        if left:
            raise OSError(f"this host has no {', '.join(left)} controller to give")
    except OSError as error:
        for directory in group.directories:
            with suppress(OSError):
                directory.rmdir()
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"cgroup.path {config.path}: {error}; delegate the group to this user, or leave "
            "`cgroup` out of the config file",
        ) from error
    return group


def _works(version: int, top: Path, settings: list[Setting]) -> bool:
    """Whether version 2 has these controllers here: beside version 1 it may have none."""
    if version == 1:
        return True
    with suppress(OSError):
        return {each[0] for each in settings} <= set(
            (top / "cgroup.controllers").read_text().split()
        )
    return False


def _make(version: int, top: Path, path: str) -> Path:
    """The new group, and those above it where they are missing."""
    relative = Path(path.strip("/"))
    with suppress(ValueError):
        relative = Path(path).relative_to(top)
    directory = top / relative
    above = [parent for parent in reversed(directory.parents) if parent.is_relative_to(top)]
    for parent in above:
        parent.mkdir(exist_ok=True)
        if version == 2:
            with suppress(OSError):  # what was not handed down shows when a limit is written
                (parent / "cgroup.subtree_control").write_text("+cpu +memory +pids")
    directory.mkdir()
    return directory


def _version_2(config: CgroupConfig) -> list[Setting]:
    quota = "max" if config.cpu_quota_us is None else str(config.cpu_quota_us)
    settings = [("cpu", "cpu.max", f"{quota} {config.cpu_period_us}")]
    if config.cpu_weight is not None:
        settings.append(("cpu", "cpu.weight", str(config.cpu_weight)))
    if config.memory_max_bytes is not None:
        settings.append(("memory", "memory.max", str(config.memory_max_bytes)))
    if config.pids_max is not None:
        settings.append(("pids", "pids.max", str(config.pids_max)))
    return settings


def _version_1(config: CgroupConfig) -> list[Setting]:
    settings = [("cpu", "cpu.cfs_period_us", str(config.cpu_period_us)), ("cpuacct", "", "")]
    settings.append(("cpu", "cpu.cfs_quota_us", str(config.cpu_quota_us or -1)))
    if config.cpu_weight is not None:
        # 100 and 1024 are what nobody asked for, in the one version and in the other.
        shares = max(2, config.cpu_weight * 1024 // 100)
        settings.append(("cpu", "cpu.shares", str(shares)))
    if config.memory_max_bytes is not None:
        settings.append(("memory", "memory.limit_in_bytes", str(config.memory_max_bytes)))
    if config.pids_max is not None:
        settings.append(("pids", "pids.max", str(config.pids_max)))
    return settings
