"""What has been fetched from Debian, kept as archives so that a build needs no network twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import debian
from .failure import Progress

BUILDING = ".building-"
"""How the name of everything unfinished in a directory of ours begins."""
_DIRECTORY = ".packages"


@dataclass(frozen=True, slots=True)
class Packages:
    """Archives below `directory`, an image store whose lock the caller holds.

    `mirror`: where Debian is fetched from; `force`: fetch what is there already.
    Everything here raises SandboxError; OSError.
    """

    directory: Path
    suite: str
    progress: Progress
    mirror: str | None = None
    force: bool = False

    def rootfs(self, packages: tuple[str, ...] = ()) -> Path:
        """A root file system with Python and `packages`; see `debian.fetch_rootfs`."""

        def fetch(target: Path) -> None:
            debian.fetch_rootfs(target, self.suite, packages, self.mirror, self.progress)

        wanted = (*debian.ROOTFS_PACKAGES, *packages)
        return self._kept(["rootfs", self.suite, self.mirror or "", *wanted], fetch)

    def parts(self, with_kernel: bool) -> Path:
        """The parts that every image carries; see `debian.fetch_parts`."""

        def fetch(target: Path) -> None:
            debian.fetch_parts(target, self.suite, with_kernel, self.mirror, self.progress)

        kernel = debian.kernel_suite(self.suite) if with_kernel else ""
        return self._kept(["parts", self.suite, self.mirror or "", kernel], fetch)

    def _kept(self, key: list[str], fetch: Callable[[Path], None]) -> Path:
        place = self.directory / _DIRECTORY
        place.mkdir(mode=0o700, exist_ok=True)
        facts = json.dumps([*key, debian.architecture()]).encode()
        archive = place / f"{hashlib.sha256(facts).hexdigest()[:32]}.tar"
        if self.force or not archive.exists():
            temporary = archive.with_name(f"{BUILDING}{archive.name}")
            try:
                fetch(temporary)
                temporary.replace(archive)
            finally:
                temporary.unlink(missing_ok=True)
        return archive
