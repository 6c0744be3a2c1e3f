"""Control groups, version 2 or 1, as the host has them.

A `Cgroups` finds where groups can be made and which limits they can hold; a `Group`
is one sandbox's, in every hierarchy that is needed. Sources: the kernel's
admin-guide/cgroup-v2.rst and admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .ownership import PREFIX, Ownership

PERIOD_US = 100_000
"""The period over which processor time is shared out."""
REMOVE_TIMEOUT_S = 2.0
LEAF = "mas-sandboxd"
"""The leaf that a daemon with a delegated v2 group of its own moves to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group holds; None is not limited. `cpus` may be fractional."""

    mem_mb: int | None = None
    cpus: float | None = None
    pids: int | None = None


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A directory below which groups can be made, for some of the controls."""

    version: int
    parent: Path
    controls: frozenset[Control]


_CONTROLLERS = {"memory": Control.MEMORY, "cpu": Control.CPU, "pids": Control.PIDS}


@dataclass(slots=True)
class Group:
    """One sandbox's control group."""

    directories: list[Path] = field(default_factory=list)
    _memory: Path | None = None

    def entrances(self, undo: ExitStack | AsyncExitStack) -> tuple[int, ...]:
        """Open files to which a process writes "0" to move itself in, with all it forks.

        A thread that moves itself through v1's `tasks` does not wait for the whole
        machine's processes to be quiet, which takes some 10 ms from outside
        (`cgroup_threadgroup_rwsem` in the kernel's cgroup.c).
        """
        descriptors = []
        for directory in self.directories:
            name = "tasks" if (directory / "tasks").exists() else "cgroup.procs"
            descriptor = os.open(directory / name, os.O_WRONLY | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            descriptors.append(descriptor)
        return tuple(descriptors)

    def oom_kills(self) -> int:
        """How many processes were killed at the memory limit."""
        if self._memory is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                return _counter(self._memory / name, "oom_kill")
        return 0

    async def remove(self) -> None:
        """Remove the group once its last process is reaped; raises OSError when it stays."""
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while self.directories:
            try:
                with suppress(FileNotFoundError):
                    self.directories[-1].rmdir()
                self.directories.pop()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.002)


class Cgroups:
    """Where this daemon may make groups, and what they can hold."""

    def __init__(self, ownership: Ownership, hierarchies: list[Hierarchy] | None = None) -> None:
        self._ownership = ownership
        self._hierarchies = find_hierarchies() if hierarchies is None else hierarchies
        self._reclaim()

    @property
    def controls(self) -> Mapping[Control, str]:
        """The controls that can be enforced, each with the name of its mechanism."""
        return {
            control: f"cgroup v{each.version}"
            for each in self._hierarchies
            for control in each.controls
        }

    def create(self, suffix: str, limits: Limits) -> Group:
        """Make a group with these limits in force.

        Raises SandboxError `policy_unenforceable` when a limit cannot be set; the
        group is then gone again.
        """
        group = Group()
        try:
            for hierarchy in self._hierarchies:
                files = _settings(hierarchy, limits)
                if not files:
                    continue
                directory = hierarchy.parent / self._ownership.name(suffix)
                directory.mkdir()
                group.directories.append(directory)
                if Control.MEMORY in hierarchy.controls and limits.mem_mb is not None:
                    group._memory = directory
                for name, value, required in files:
                    _write(directory / name, value, required)
        except OSError as error:
            for directory in group.directories:
                with suppress(OSError):
                    directory.rmdir()
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"a control group could not be set up: {error}; run `mas-sandbox doctor`",
            ) from error
        return group

    def _reclaim(self) -> None:
        """Remove the groups of dead daemons, and end what may still run in them."""
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        for hierarchy in self._hierarchies:
            for path in hierarchy.parent.glob(PREFIX + "*"):
                while self._ownership.abandoned(path.name) and time.monotonic() < deadline:
                    try:
                        path.rmdir()
                        break
                    except FileNotFoundError:
                        break
                    except OSError:
                        _kill_members(path)
                        time.sleep(0.005)


def _kill_members(group: Path) -> None:
    with suppress(FileNotFoundError):
        for process in (group / "cgroup.procs").read_text().split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)


def _settings(hierarchy: Hierarchy, limits: Limits) -> list[tuple[str, str, bool]]:
    """(file, value, required) to write. A swap limit is not required where there is no
    swap accounting: the memory limit holds without it, and `swap off` is the host's."""
    files: list[tuple[str, str, bool]] = []
    two = hierarchy.version == 2
    if Control.MEMORY in hierarchy.controls and limits.mem_mb is not None:
        size = str(limits.mem_mb << 20)
        if two:
            files += [("memory.max", size, True), ("memory.swap.max", "0", False)]
        else:
            files += [("memory.limit_in_bytes", size, True)]
            files += [("memory.memsw.limit_in_bytes", size, False)]
            files += [("memory.swappiness", "0", False)]
    if Control.CPU in hierarchy.controls and limits.cpus is not None:
        quota = max(1000, int(limits.cpus * PERIOD_US))
        if two:
            files += [("cpu.max", f"{quota} {PERIOD_US}", True)]
        else:
            files += [("cpu.cfs_period_us", str(PERIOD_US), True)]
            files += [("cpu.cfs_quota_us", str(quota), True)]
    if Control.PIDS in hierarchy.controls and limits.pids is not None:
        files += [("pids.max", str(limits.pids), True)]
    return files


def _write(path: Path, value: str, required: bool) -> None:
    try:
        path.write_text(value)
    except OSError:
        if required:
            raise


def find_hierarchies() -> list[Hierarchy]:
    """Every place where this process can really make groups, found by making one."""
    own = _own_cgroups()
    found: list[Hierarchy] = []
    for version, controllers, root, mountpoint in mounts():
        held = {control for each in found for control in each.controls}
        wanted = {_CONTROLLERS[name] for name in _available(version, controllers, mountpoint)}
        if not wanted - held:
            continue
        inside = own.get("" if version == 2 else controllers[0], "/")
        relative = os.path.relpath(inside, root) if inside.startswith(root) else "."
        for parent in _candidates(version, mountpoint, mountpoint / relative):
            hierarchy = Hierarchy(version, parent, frozenset(wanted - held))
            if _works(hierarchy):
                found.append(hierarchy)
                break
    return found


def _candidates(version: int, mountpoint: Path, own: Path) -> list[Path]:
    """Directories to try: our own group; for root on v2 also the top, where no process is
    in the way."""
    if version == 1:
        return [own]
    if own.name == LEAF:
        own = own.parent
    with suppress(OSError):
        _delegate(own)
    return [own, mountpoint] if os.geteuid() == 0 else [own]


def _delegate(own: Path) -> None:
    """Let `own` hand controllers to groups below it (v2's no-internal-process rule).

    Only where this process is alone in it: it then moves to a leaf of its own.
    """
    if (own / "cgroup.procs").read_text().split() == [str(os.getpid())]:
        leaf = own / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
    available = set((own / "cgroup.controllers").read_text().split()) & _CONTROLLERS.keys()
    (own / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in sorted(available)))


def _works(hierarchy: Hierarchy) -> bool:
    """Make a group, set every limit in it, remove it."""
    directory = hierarchy.parent / f"{PREFIX}probe-{os.getpid()}"
    try:
        directory.mkdir()
    except OSError:
        return False
    try:
        for name, value, required in _settings(hierarchy, Limits(mem_mb=64, cpus=1.0, pids=16)):
            _write(directory / name, value, required)
    except OSError:
        return False
    finally:
        directory.rmdir()
    return True


def _available(version: int, controllers: list[str], mountpoint: Path) -> list[str]:
    if version == 2:
        with suppress(OSError):
            controllers = (mountpoint / "cgroup.controllers").read_text().split()
    return [name for name in controllers if name in _CONTROLLERS]


def mounts() -> list[tuple[int, list[str], str, Path]]:
    """(version, v1 controllers, root within the hierarchy, mount point): proc(5), mountinfo."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root, mountpoint = left.split(" ")[3:5]
        if kind == "cgroup2":
            found.append((2, ["memory", "cpu", "pids"], root, Path(mountpoint)))
        elif kind == "cgroup":
            names = [name for name in options.split(",") if name in _CONTROLLERS]
            if names:
                found.append((1, names, root, Path(mountpoint)))
    return found


def _own_cgroups() -> dict[str, str]:
    """Controller -> our path; the empty name is version 2 (cgroups(7))."""
    paths = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for name in controllers.split(","):
            paths[name] = path
    return paths


def _counter(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
