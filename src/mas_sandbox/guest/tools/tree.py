"""Walking a directory tree by descriptors, in bounds, without following links."""

from __future__ import annotations

import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeVar

    State = TypeVar("State")

MAX_SEEN = 100_000
MAX_SECONDS = 20.0
MAX_DEPTH = 100
"""Each level holds a descriptor."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Budget:
    """How much one call may look at. `exhausted` once something was left out for it."""

    __slots__ = ("_deadline", "_left", "exhausted")

    def __init__(self, seen: int | None = None, seconds: float | None = None) -> None:
        self._left = MAX_SEEN if seen is None else seen
        self._deadline = time.monotonic() + (MAX_SECONDS if seconds is None else seconds)
        self.exhausted = False

    def entries(self, directory: int) -> list[os.DirEntry[str]]:
        """What a directory holds, sorted by name; less of it when the budget ends."""
        found = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if not self.allows():
                    break
                self._left -= 1
                found.append(entry)
        found.sort(key=_name)
        return found

    def allows(self) -> bool:
        if self._left <= 0 or time.monotonic() > self._deadline:
            self.exhausted = True
        return not self.exhausted


class Found:
    """An entry of the tree: `path` from where the walk began, `directory` the descriptor
    that holds it, open until the walk goes on."""

    __slots__ = ("directory", "entry", "path")

    def __init__(self, directory: int, entry: os.DirEntry[str], path: str) -> None:
        self.directory = directory
        self.entry = entry
        self.path = path

    @property
    def shown(self) -> str:
        """The path as text that JSON can carry: bytes that are not UTF-8 become `\\xff`."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


def walk(
    directory: int,
    step: Callable[[State, str], tuple[bool, State | None]],
    state: State,
    budget: Budget,
) -> Iterator[Found]:
    """Entries for which `step(state, name)` says (True, _), each directory before what it
    holds. The second is the state inside, where the entry is a directory; None: stay out.
    Directories that cannot be opened are passed over."""
    return _walk(directory, step, state, budget, "", 1)


def _walk(
    directory: int,
    step: Callable[[State, str], tuple[bool, State | None]],
    state: State,
    budget: Budget,
    prefix: str,
    depth: int,
) -> Iterator[Found]:
    for entry in budget.entries(directory):
        wanted, inside = step(state, entry.name)
        path = prefix + entry.name
        if wanted:
            yield Found(directory, entry, path)
        if inside is None or not entry.is_dir(follow_symlinks=False):
            continue
        if depth == MAX_DEPTH:
            budget.exhausted = True
            continue
        try:
            child = os.open(entry.name, _DIRECTORY, dir_fd=directory)
        except OSError:
            continue
        try:
            yield from _walk(child, step, inside, budget, f"{path}/", depth + 1)
        finally:
            os.close(child)


def joined(base: str, name: str) -> str:
    """`name` beneath `base` as the caller spelt it, ready for the next call."""
    base = base.rstrip("/") if base != "/" else ""
    return name if base == "." else f"{base}/{name}"


def kind(mode: int) -> str:
    """`file`, `directory`, `symlink` or `other` (a FIFO, a socket, a device)."""
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "symlink" if stat.S_ISLNK(mode) else "other"


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name
