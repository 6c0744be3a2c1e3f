"""The scratch space of a machine's calls: tmpfs mounts, whose size can be set.

A directory may lie on a tmpfs itself or on an overlay whose upper layer does. Which
mount is behind it is found by trying: resize one, and see whether the directory's file
system changed its size too.
"""

from __future__ import annotations

import os
import stat

from . import mounts


class Scratch:
    """`mounts`: the tmpfs mounts that hold whatever a call can write."""

    def __init__(self, found: list[str]) -> None:
        self.mounts = found

    @classmethod
    def find(cls, directories: list[str]) -> Scratch | None:
        """None where one of the directories has no tmpfs behind it that can be resized."""
        candidates = mounts.points("tmpfs")
        found = {point for point in candidates if _anyone_may_write(point)}
        for directory in directories:
            behind = [point for point in candidates if _is_behind(point, directory)]
            if not behind:
                return None
            found.add(behind[0])
        return cls(sorted(found))

    def limit(self, disk_mb: int | None, disk_files: int | None = None) -> None:
        """Let each mount hold that much, and so many files more than it has; None is not
        limited. Raises OSError, EINVAL where more is in use."""
        for point in self.mounts:
            if disk_mb is not None:
                mounts.set_size(point, disk_mb << 20)
            if disk_files is not None:
                mounts.add_files(point, disk_files)


def _anyone_may_write(point: str) -> bool:
    try:
        return bool(os.stat(point).st_mode & stat.S_IWOTH)
    except OSError:
        return False


def _is_behind(point: str, directory: str) -> bool:
    before = os.statvfs(directory)
    try:
        if before.f_blocks < 2 or os.statvfs(point).f_blocks != before.f_blocks:
            return False
        mounts.set_size(point, (before.f_blocks - 1) * before.f_frsize)
    except OSError:
        return False
    return os.statvfs(directory).f_blocks != before.f_blocks
