"""Which daemons are alive, and from where in the log their open calls are found.

Each daemon holds `daemons/<instance>.json` locked with `flock(2)`, which the kernel
lets go of however the daemon ends. A file that can be locked belongs to the dead.
Everything here happens while the log is locked, so that nobody is taken for dead
between making the file and locking it.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from .storage import sync_directory

_STEP = 1024 * 1024
"""How far the log may grow before the offset is written anew, in bytes."""


class Presence:
    """This daemon's file, locked for as long as it lives."""

    def __init__(self, directory: Path, instance: str, offset: int) -> None:
        self._path = directory / f"{instance}.json"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        self._instance = instance
        self._kept = False
        self._write(offset)

    def keep(self) -> None:
        """Have the file survive a power cut; called once, before the first intent is written."""
        if not self._kept:
            sync_directory(self._path.parent)
            self._kept = True

    def moved(self, offset: int) -> None:
        """Everything of ours before `offset` has its outcome."""
        if offset - self._offset >= _STEP:
            self._write(offset)

    def leave(self, *, finished: bool) -> None:
        """Let go; with calls still open the file stays, for the next daemon to settle."""
        if finished:
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _write(self, offset: int) -> None:
        # Always the same length: one write over the old text, never a torn mix.
        text = json.dumps({"instance": self._instance, "offset": f"{offset:020d}"})
        os.pwrite(self._descriptor, text.encode("ascii"), 0)
        self._offset = offset


def is_alive(directory: Path, instance: str) -> bool:
    """Whether the daemon of this name still runs: its lock cannot be taken, not even shared."""
    try:
        path = directory / f"{instance}.json"
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def the_dead(directory: Path) -> Iterator[tuple[Path, str, int]]:
    """File, instance and offset of each daemon that ended without leaving."""
    for path in sorted(directory.glob("*.json")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, path.stem, _offset(os.read(descriptor, 4096))
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _offset(text: bytes) -> int:
    """From the very start where a crash left nothing readable."""
    try:
        return int(json.loads(text)["offset"])
    except (ValueError, KeyError, TypeError):
        return 0
