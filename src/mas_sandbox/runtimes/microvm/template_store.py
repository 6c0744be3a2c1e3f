"""Templates on disk, told apart by what they were made from, so that old ones can go.

`DIRECTORY/ORIGIN/KEY`: the origin changes with the image, the monitor and the processor,
the key with the machine's shape as well. A daemon holds its origin with a shared lock
(flock(2)) for as long as it may clone from it; whoever makes a template removes the
origins that nobody holds.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Kept:
    """One template. `made_at`: seconds since the epoch; `size`: bytes on disk."""

    key: str
    made_at: float
    size: int


class TemplateStore:
    """Everything here raises OSError where the file system refuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}

    def place(self, origin: str, key: str) -> Path:
        """Where a template is, or will be. Nobody removes its origin until `close`."""
        if origin not in self._held:
            self._held[origin] = self._hold(self._directory / origin)
        return self._directory / origin / key

    def remove_old(self) -> None:
        """Remove the templates of every origin that no daemon holds, this one included."""
        for place in self._directory.iterdir():
            with suppress(OSError):
                descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(place)
                finally:
                    os.close(descriptor)

    def kept(self) -> list[Kept]:
        """Every template there is, the newest first."""
        found = []
        for manifest in self._directory.glob("[!.]*/[!.]*/manifest"):
            with suppress(OSError):  # another daemon may be removing it
                files = manifest.parent.iterdir()
                size = sum(file.stat().st_blocks * 512 for file in files)
                found.append(Kept(manifest.parent.name, manifest.stat().st_mtime, size))
        return sorted(found, key=lambda each: each.made_at, reverse=True)

    def close(self) -> None:
        """Let others remove what this daemon held."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()

    @staticmethod
    def _hold(place: Path) -> int:
        while True:
            place.mkdir(mode=0o711, parents=True, exist_ok=True)
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                # It may have been removed before it was locked.
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)


def _remove(directory: Path) -> None:
    """Gone at once for whoever looks, and then for the disk."""
    doomed = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_template(directory: Path) -> None:
    """Remove one template, if it is still there."""
    with suppress(FileNotFoundError):
        _remove(directory)
