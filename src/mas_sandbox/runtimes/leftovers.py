"""What dead daemons have left on this host, whichever runtime made it.

A thing belongs to the dead when the token in its name does (`ownership`); a process, when it
is in a control group that does. Neither a process id nor a program's name ever decides.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.errors import SandboxError

from .cgroup import group_parents, members, reclaim_groups
from .microvm.tap import reclaim as network
from .ownership import Locks


@dataclass(frozen=True, slots=True)
class Leftover:
    """`kind`: in words; `name`: a path, or what the kernel knows it by; `processes`: the ids of
    those that are still in it."""

    kind: str
    name: str
    processes: tuple[int, ...] = ()


def find_leftovers(locks: Locks, state: Path) -> list[Leftover]:
    """Everything there is; `state`: the daemon's own directory. Changes nothing. Blocks.

    What this user may not see is not there.
    """
    return [*_groups(locks), *_directories(locks, state), *_network(locks), *_locks(locks)]


def remove_leftovers(locks: Locks, state: Path) -> list[Leftover]:
    """Remove it, and say what is still there. Doing it twice, or two doing it at once, is the
    same as doing it once. Blocks for as long as the processes in it take to end."""
    reclaim_groups(locks, group_parents())
    for left in _directories(locks, state):
        shutil.rmtree(left.name, ignore_errors=True)
    with suppress(SandboxError, OSError):
        network.reclaim(locks)
    for lock in locks.dead():  # without it, its token is as dead as before
        lock.unlink(missing_ok=True)
    return find_leftovers(locks, state)


def _groups(locks: Locks) -> Iterator[Leftover]:
    for parent in group_parents():
        for path in locks.left_in(parent):
            yield Leftover("control group", str(path), tuple(members(path)))


def _directories(locks: Locks, state: Path) -> Iterator[Leftover]:
    for path in locks.left_in(Path(tempfile.gettempdir())):
        yield Leftover("workspace", str(path))
    for path in locks.left_in(state / "microvm" / "running"):
        yield Leftover("machine", str(path))


def _network(locks: Locks) -> Iterator[Leftover]:
    with suppress(SandboxError, OSError):
        for device in network.abandoned_devices(locks):
            yield Leftover("network device", device)
        for table in sorted(network.abandoned_tables(locks)):
            yield Leftover("table of nftables", table)


def _locks(locks: Locks) -> Iterator[Leftover]:
    for path in locks.dead():
        yield Leftover("lock", str(path))
