"""Room on the disk that is kept for the outcomes of calls that run when it gets full."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

SIZE = 128 * 1024
"""Bytes; an outcome takes some 600."""
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file of this size, which is removed when its room is needed."""

    def __init__(self, path: Path) -> None:
        """Raises OSError where there is no room for it."""
        self._path = path
        self._kept = True
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            _allocate(descriptor)
        except BaseException:
            path.unlink()
            raise
        finally:
            os.close(descriptor)

    def serves(self, error: OSError) -> bool:
        """Whether what failed may be tried once more, with the room that this makes."""
        if error.errno not in _NO_ROOM or not self._kept:
            return False
        self.give_up()
        return True

    def give_up(self) -> None:
        """Safe to call twice."""
        self._kept = False
        with suppress(FileNotFoundError):
            self._path.unlink()


def _allocate(descriptor: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, SIZE)
    else:  # macOS
        os.write(descriptor, bytes(SIZE))
