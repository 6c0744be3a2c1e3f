"""Where this process can make control groups: found by making one and setting every limit."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.controls import Control

from .cgroup_limits import (
    CONTROLLERS,
    IoLimit,
    Limits,
    NoDevice,
    Setting,
    block_devices,
    settings,
)
from .ownership import PREFIX

LEAF = "mas-sandboxd"
"""The leaf that a daemon with a delegated v2 group of its own moves to."""
_LEAST = 1 << 20


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A directory below which groups can be made, for some of the controls."""

    version: int
    parent: Path
    controls: frozenset[Control]


def find_hierarchies() -> list[Hierarchy]:
    """Every place where this process can really make groups, found by making one."""
    own = _own_cgroups()
    found: list[Hierarchy] = []
    for version, controllers, root, mountpoint in mounts():
        held = {control for each in found for control in each.controls}
        wanted = frozenset(_available(version, controllers, mountpoint) - held)
        if not wanted:
            continue
        inside = own.get("" if version == 2 else controllers[0], "/")
        relative = os.path.relpath(inside, root) if inside.startswith(root) else "."
        best = Hierarchy(version, mountpoint, frozenset())
        for parent in _candidates(version, mountpoint, mountpoint / relative):
            works = _working(version, parent, wanted)
            if len(works) > len(best.controls):  # time is counted even where nothing is limited
                best = Hierarchy(version, parent, works)
            if works == wanted:
                break
        if best.controls:
            found.append(best)
    return found


def find_freezer() -> Hierarchy | None:
    """Where groups can be made that can be frozen, found by making one. Version 2 first, even
    beside version 1: a frozen process there dies when it is killed, and so with the daemon."""
    own = _own_cgroups()
    places = mounts({"freezer"})
    for version, _, root, mountpoint in sorted(places, key=lambda each: each[0], reverse=True):
        inside = own.get("" if version == 2 else "freezer", "/")
        relative = os.path.relpath(inside, root) if inside.startswith(root) else "."
        for parent in (mountpoint / relative, mountpoint):
            if _freezes(parent):
                return Hierarchy(version, parent, frozenset())
    return None


def _freezes(parent: Path) -> bool:
    directory = parent / f"{PREFIX}probe-{os.getpid()}-freezer"
    try:
        directory.mkdir()
    except OSError:
        return False
    try:
        return any((directory / name).exists() for name in ("cgroup.freeze", "freezer.state"))
    finally:
        directory.rmdir()


def mounts(known: Collection[str] = CONTROLLERS) -> list[tuple[int, list[str], str, Path]]:
    """(version, v1 controllers, root within the hierarchy, mount point): proc(5), mountinfo.
    Of version 1, the hierarchies of `known` controllers."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, mountpoint = left.split(" ")[3:5]
        if kind == "cgroup2":
            found.append((2, ["memory", "cpu", "pids", "io"], root, Path(mountpoint)))
        elif kind == "cgroup":
            names = [name for name in options.split(",") if name in known]
            if names:
                found.append((1, names, root, Path(mountpoint)))
    return found


def write(directory: Path, setting: Setting) -> None:
    """Raises OSError for what is required."""
    try:
        descriptor = os.open(f"{directory}/{setting.file}", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC)
        try:
            os.write(descriptor, setting.value.encode())
        finally:
            os.close(descriptor)
    except OSError:
        if setting.required:
            raise


def _candidates(version: int, mountpoint: Path, own: Path) -> Iterator[Path]:
    """Directories to try: our own group, and on v2, where a process beside this one would be in
    the way there, what is above it, as it is: for root the top, for others what is theirs."""
    if version == 1:
        yield own
        return
    if own.name == LEAF:
        own = own.parent
    above = [each for each in own.parents if each.is_relative_to(mountpoint)]
    with suppress(OSError):
        _delegate(own)
    for parent in (own, *(above[-1:] if os.geteuid() == 0 else above)):
        if os.access(parent, os.W_OK):
            yield parent


def _delegate(own: Path) -> None:
    """Let `own` hand controllers to groups below it (v2's no-internal-process rule).

    Only where this process is alone in it: it then moves to a leaf of its own.
    """
    if (own / "cgroup.procs").read_text().split() == [str(os.getpid())]:
        leaf = own / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
    available = set((own / "cgroup.controllers").read_text().split()) & CONTROLLERS.keys()
    handed = set((own / "cgroup.subtree_control").read_text().split())
    for name in sorted(available - handed):
        with suppress(OSError):  # one that cannot be is not to keep back the others
            (own / "cgroup.subtree_control").write_text(f"+{name}")


def _working(version: int, parent: Path, wanted: frozenset[Control]) -> frozenset[Control]:
    """Make a group, set every limit in it, remove it: the controls that could be set."""
    try:
        devices = block_devices(["/usr"])
    except (OSError, NoDevice):
        devices = ()
    io = IoLimit(devices, _LEAST, _LEAST) if devices else None
    limits = Limits(mem_mb=64, cpus=1.0, pids=16, io=io)
    directory = parent / f"{PREFIX}probe-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError:
        return frozenset()
    try:
        return frozenset(each for each in wanted if _holds(version, directory, each, limits))
    finally:
        directory.rmdir()


def _holds(version: int, directory: Path, control: Control, limits: Limits) -> bool:
    if control is Control.CPU_TIME:
        return cpu_us(directory) is not None
    told = settings(version, control, limits)
    try:
        for setting in told:
            write(directory, setting)
    except OSError:
        return False
    return bool(told)


def cpu_us(directory: Path) -> int | None:
    """Processor time that a group has used, where the group counts it."""
    with suppress(FileNotFoundError):
        return int((directory / "cpuacct.usage").read_text()) // 1000
    with suppress(FileNotFoundError):
        return counter(directory / "cpu.stat", "usage_usec")
    return None


def counter(path: Path, name: str) -> int | None:
    """The number after this name in a file of lines. Raises FileNotFoundError."""
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _available(version: int, controllers: list[str], mountpoint: Path) -> set[Control]:
    if version == 2:
        with suppress(OSError):
            controllers = (mountpoint / "cgroup.controllers").read_text().split()
    found = {CONTROLLERS[name] for name in controllers if name in CONTROLLERS}
    return found | {Control.CPU_TIME} if version == 2 else found


def _own_cgroups() -> dict[str, str]:
    """Controller -> our path; the empty name is version 2 (cgroups(7))."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    return paths
