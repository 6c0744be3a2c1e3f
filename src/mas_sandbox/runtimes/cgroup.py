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

from .cgroup_find import Hierarchy, counter, cpu_us, find_freezer, find_hierarchies, write
from .cgroup_limits import Limits, settings, wanted
from .freezer import Freezer, thaw
from .ownership import Locks, Ownership

__all__ = ["Cgroups", "Group", "Hierarchy", "Limits", "find_hierarchies"]

REMOVE_TIMEOUT_S = 2.0


@dataclass(slots=True)
class Group:
    """One sandbox's control group. `memory`, `counting`: the directories whose counters of
    memory and of processor time are its own; `freezer`: what stops all of it."""

    directories: list[Path] = field(default_factory=list)
    memory: Path | None = None
    counting: Path | None = None
    freezer: Freezer = field(init=False)

    def __post_init__(self) -> None:
        self.freezer = Freezer(self.directories, None, "")

    def entrances(self, undo: ExitStack | AsyncExitStack) -> tuple[int, ...]:
        """Open files to which a process writes "0" to move itself in, with all it forks.

        A thread that moves itself through v1's `tasks` does not wait for the whole
        machine's processes to be quiet, which takes some 10 ms from outside
        (`cgroup_threadgroup_rwsem` in the kernel's cgroup.c).
        """
        descriptors = []
        for directory in self.directories:
            try:
                descriptor = os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                descriptor = os.open(f"{directory}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            undo.callback(os.close, descriptor)
            descriptors.append(descriptor)
        return tuple(descriptors)

    def oom_kills(self) -> int:
        """How many processes were killed at the memory limit."""
        if self.memory is None:
            return 0
        for name in ("memory.events", "memory.oom_control"):
            with suppress(FileNotFoundError):
                return counter(self.memory / name, "oom_kill") or 0
        return 0

    def cpu_us(self) -> int | None:
        """Processor time used so far; None where `count_cpu` was not asked for or is gone."""
        return None if self.counting is None else cpu_us(self.counting)

    async def remove(self) -> None:
        """Remove the group, and end what may still be in it: a bubblewrap that was killed as it
        started leaves a process that waits for it for ever. Raises OSError when it stays."""
        deadline = time.monotonic() + REMOVE_TIMEOUT_S
        while self.directories:
            try:
                with suppress(FileNotFoundError):
                    self.directories[-1].rmdir()
                self.directories.pop()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                _kill_members(self.directories[-1])
                await asyncio.sleep(0.002)


class Cgroups:
    """Where this daemon may make groups, and what they can hold."""

    def __init__(self, ownership: Ownership, hierarchies: list[Hierarchy] | None = None) -> None:
        self._ownership = ownership
        self._hierarchies = find_hierarchies() if hierarchies is None else hierarchies
        self._freezer = find_freezer() if hierarchies is None else None
        reclaim_groups(ownership, self._parents())

    @property
    def controls(self) -> Mapping[Control, str]:
        """The controls that can be enforced, each with the name of its mechanism."""
        return {
            control: f"cgroup v{each.version}"
            for each in self._hierarchies
            for control in each.controls
        }

    @property
    def holds_late_writes(self) -> bool:
        """Whether IO limits hold for what the kernel writes out later on a group's behalf:
        in version 2, beside the memory controller, which knows whose the pages are."""
        return any(
            each.version == 2 and {Control.IO, Control.MEMORY} <= each.controls
            for each in self._hierarchies
        )

    def create(self, suffix: str, limits: Limits) -> Group:
        """Make a group with these limits in force. Processor time is counted where it can
        be; any other limit that no hierarchy here holds is the caller's to refuse.

        Raises SandboxError `policy_unenforceable` when a limit cannot be set; the
        group is then gone again.
        """
        group = Group()
        name = self._ownership.name(f"{suffix}-paused")
        group.freezer = Freezer(group.directories, self._freezer, name)
        asked = wanted(limits)
        try:
            for hierarchy in self._hierarchies:
                held = hierarchy.controls & asked
                if held:
                    self._make(group, hierarchy, held, suffix, limits)
        except OSError as error:
            for directory in group.directories:
                with suppress(OSError):
                    directory.rmdir()
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"a control group could not be set up: {error}; run `mas-sandbox doctor`",
            ) from error
        return group

    def _make(
        self,
        group: Group,
        hierarchy: Hierarchy,
        held: frozenset[Control],
        suffix: str,
        limits: Limits,
    ) -> None:
        directory = hierarchy.parent / self._ownership.name(suffix)
        directory.mkdir()
        group.directories.append(directory)
        if Control.MEMORY in held:
            group.memory = directory
        if Control.CPU_TIME in held:
            group.counting = directory
        for control in held:
            for setting in settings(hierarchy.version, control, limits):
                write(directory, setting)

    def _parents(self) -> list[Path]:
        freezer = [] if self._freezer is None else [self._freezer]
        return [each.parent for each in freezer + self._hierarchies]


def group_parents() -> list[Path]:
    """Where daemons of this user make their groups. What version 1 has frozen dies only once
    it is let go, so the freezer's comes first."""
    freezer = find_freezer()
    return [each.parent for each in ([freezer] if freezer else []) + find_hierarchies()]


def reclaim_groups(locks: Locks, parents: list[Path]) -> None:
    """Remove the groups of dead daemons, and end what may still run in them. Blocks."""
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    for parent in parents:
        for path in locks.left_in(parent):
            while time.monotonic() < deadline:
                try:
                    path.rmdir()
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    _kill_members(path)
                    thaw(path)
                    time.sleep(0.005)


def members(group: Path) -> list[int]:
    """The host's ids of the processes in a group; none for one that is gone."""
    with suppress(FileNotFoundError, OSError):
        return [int(process) for process in (group / "cgroup.procs").read_text().split()]
    return []


def _kill_members(group: Path) -> None:
    for process in members(group):
        with suppress(ProcessLookupError):
            descriptor = os.pidfd_open(process)
            try:
                if process in members(group):  # and not another one of its number
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)
