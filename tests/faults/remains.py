"""What one daemon has left on this host, whatever else runs there meanwhile.

Its processes are told by descent: while a `Remains` is open, this process takes in every
orphan of its descendants' (PR_SET_CHILD_SUBREAPER, prctl(2)). Everything else is told by the
token that is in its name.
"""

from __future__ import annotations

import ctypes
import os
import re
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Self

from census import children, zygotes
from mas_sandbox.runtimes.cgroup import group_parents
from mas_sandbox.runtimes.leftovers import find_leftovers, remove_leftovers
from mas_sandbox.runtimes.ownership import PREFIX, Locks, lock_directory

_PR_SET_CHILD_SUBREAPER = 36
_LOCK = re.compile(r"/([0-9a-f]{24})\.lock$")


class Remains:
    """A context. `settled` is the census: it fails unless everything is as it was before."""

    def __init__(self, state: Path) -> None:
        """`state`: the directory of the daemon that is watched."""
        self._state = state
        self._tokens: set[str] = set()

    def __enter__(self) -> Self:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self._before = set(descendants(os.getpid()))
        self._descriptors = set(os.listdir("/proc/self/fd"))
        self._mounts = _mounts()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)

    def watch(self, process: int) -> None:
        """The daemon, which must be up: what it has made carries its tokens."""
        self.knows(tokens(process))

    def knows(self, found: Collection[str]) -> None:
        assert found, "a daemon without a token"
        self._tokens |= set(found)

    def processes(self, but: Collection[int] = ()) -> dict[int, str]:
        """Those that have come since the beginning; dead orphans are buried on the way. `but`:
        children that somebody else waits for."""
        found = {}
        # A daemon that lives keeps its zygote, whether it has a sandbox or none.
        daemons = {*but} | ({os.getpid()} if tokens(os.getpid()) else set())
        kept = zygotes() & {child for daemon in daemons for child in children(daemon)}
        for process in descendants(os.getpid()):
            if process in self._before or process in but or process in kept:
                continue
            try:
                state, parent = (
                    Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[:2]
                )
                words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state == "Z" and int(parent) == os.getpid():
                os.waitpid(process, os.WNOHANG)
            elif state != "Z":
                found[process] = words
        return found

    def gone(self, within_s: float = 2.0, but: Collection[int] = ()) -> None:
        """No process is left, in time."""
        deadline = time.monotonic() + within_s
        while left := self.processes(but):
            assert time.monotonic() < deadline, left
            time.sleep(0.01)

    def _gone_or_inert(self, within_s: float) -> None:
        """A bubblewrap whose other half was killed as it started waits for it for ever, before
        anything of the sandbox runs: the next daemon ends it, by its control group."""
        deadline = time.monotonic() + within_s
        while left := self.processes():
            if time.monotonic() > deadline:
                grouped = {
                    each
                    for found in find_leftovers(Locks(), self._state)
                    for each in found.processes
                }
                assert len(left) == 1, left
                assert "bwrap --args" in next(iter(left.values()))
                assert left.keys() <= grouped
                return
            time.sleep(0.01)

    def things(self) -> list[str]:
        """Control groups, files, directories and locks that carry a token of the daemon's."""
        places = [
            *group_parents(),
            Path(tempfile.gettempdir()),
            self._state / "microvm" / "running",
        ]
        found = [
            str(path)
            for token in self._tokens
            for place in places
            for path in place.glob(f"{PREFIX}{token}*")
        ]
        locks = [lock_directory().glob(f"*{token}*") for token in self._tokens]
        return [*found, *(str(path) for each in locks for path in each)]

    def settled(self, within_s: float = 2.0, *, killed: bool) -> None:
        """Nothing is left; where the daemon was `killed`, once the next one has come up."""
        if killed:
            self._gone_or_inert(within_s)
            assert remove_leftovers(Locks(), self._state) == []
        self.gone(within_s)
        assert self.things() == []
        assert [line for line in _mounts() - self._mounts if str(self._state) in line] == []
        assert set(os.listdir("/proc/self/fd")) == self._descriptors


def descendants(process: int) -> list[int]:
    found = children(process)
    for each in found:  # it grows as it is read
        found += children(each)
    return found


def tokens(process: int) -> set[str]:
    """Of the locks that a process holds open."""
    found = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            held = _LOCK.search(os.readlink(descriptor))
        except FileNotFoundError:
            continue
        if held:
            found.add(held[1])
    return found


def _mounts() -> set[str]:
    return {line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines()}
