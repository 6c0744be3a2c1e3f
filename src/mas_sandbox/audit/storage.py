"""The two things that a disk can fail at."""

from __future__ import annotations

import os
from pathlib import Path


class Storage:
    """Writes and syncs; tests pass one that counts, or fails."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Append all of `data`. Raises OSError; some of it may have been written."""
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]

    def sync(self, descriptor: int) -> None:
        """Return when everything written is on disk. Raises OSError."""
        # macOS has no fdatasync.
        getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_directory(path: Path) -> None:
    """A new file survives a power cut once its directory is on disk too."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
