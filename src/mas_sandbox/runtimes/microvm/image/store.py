"""The images on this host: one directory for each, named by the digest of its content."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError

FORMAT = 1
BUILD_COMMAND = "mas-sandbox image build"
MANIFEST = "image.json"
CURRENT = "current"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_MANIFEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Image:
    """One built image.

    `digest`: SHA-256 over the names and digests of its files; also its directory's name.
    `inputs`: what it was built from; equal inputs need no new build. `built_at`: seconds
    since the epoch. `source`: what a person called it. `python`: the guest's, and
    whether it is carried or the image's own. `toolrunner`: digest of the zipapp.
    `files`: name -> SHA-256.
    """

    directory: Path
    digest: str
    inputs: str
    kernel_version: str
    built_at: float
    source: str
    python: str
    toolrunner: str
    files: dict[str, str]

    @property
    def kernel(self) -> Path:
        """What a monitor boots: the uncompressed kernel where there is one.

        QEMU enters it directly (PVH) and is spared the guest's own decompression, which
        takes most of a second under emulation; Firecracker takes nothing else.
        """
        return self.directory / ("vmlinux" if "vmlinux" in self.files else "vmlinuz")

    @property
    def vmlinux(self) -> Path | None:
        """The kernel as Firecracker takes it; None where it could not be had."""
        return self.directory / "vmlinux" if "vmlinux" in self.files else None

    @property
    def vmlinuz(self) -> Path | None:
        """The kernel as distributions ship it; None for an operator's own vmlinux."""
        return self.directory / "vmlinuz" if "vmlinuz" in self.files else None

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd.img"

    @property
    def rootfs(self) -> Path:
        return self.directory / "rootfs.ext4"

    @property
    def bytes_on_disk(self) -> int:
        return sum((self.directory / name).stat().st_blocks * 512 for name in self.files)

    def verify(self) -> None:
        """Read every file and compare it with its digest.

        Raises SandboxError `sandbox_crash`, naming the file.
        """
        for name, digest in self.files.items():
            path = self.directory / name
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise _damaged(path, str(error)) from error
            if found != digest:
                raise _damaged(path, "its content is not what was built")


def image_directory() -> Path:
    """Where images are kept: below $XDG_CACHE_HOME, else /var/cache for root, else ~/.cache.

    Root's own directory is closed to the unprivileged users that monitors run as.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "mas-sandbox" / "images"
    cache = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    return cache / "mas-sandbox" / "images"


def find_image(path: Path | None = None) -> Image:
    """The image in the directory `path`, or the one that was built last.

    Files are there and nobody else can write them; `Image.verify` reads them as well.
    Raises SandboxError `sandbox_crash`, naming the command that builds one.
    """
    if path is not None:
        return _read(path.resolve())  # `current` is a link
    try:
        name = (image_directory() / CURRENT).readlink().name
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"there is no guest image yet; run `{BUILD_COMMAND}`"
        ) from error
    return _read(image_directory() / name)


def list_images() -> list[Image]:
    """Those that are whole, the newest first."""
    try:
        names = sorted(os.listdir(image_directory()))
    except FileNotFoundError:
        return []
    images = []
    for name in filter(_DIGEST.fullmatch, names):
        try:
            images.append(_read(image_directory() / name))
        except SandboxError:
            continue
    return sorted(images, key=lambda image: image.built_at, reverse=True)


def remove_image(prefix: str) -> str:
    """Remove the one image whose digest begins with `prefix`, whole or not; its digest.

    Machines that run from it keep their open files. Raises SandboxError
    `invalid_request` when none or several fit.
    """
    directory = image_directory()
    names = os.listdir(directory) if directory.is_dir() else []
    fitting = [name for name in names if _DIGEST.fullmatch(name) and name.startswith(prefix)]
    if len(fitting) != 1 or not prefix:
        count = "no image" if not fitting else f"{len(fitting)} images"
        raise SandboxError(
            ErrorCode.INVALID_REQUEST,
            f"{count} with a digest that begins with {prefix!r}; see `mas-sandbox image ls`",
        )
    (name,) = fitting
    with locked(directory):
        doomed = directory / f".doomed-{secrets.token_hex(8)}"
        (directory / name).rename(doomed)
        shutil.rmtree(doomed)
        current = directory / CURRENT
        if current.is_symlink() and current.readlink().name == name:
            current.unlink()
            left = list_images()
            if left:
                make_current(left[0])
    return name


def keep(
    built: Path, files: list[str], facts: dict[str, Any], directory: Path | None = None
) -> Image:
    """Take the finished files in the directory `built` in as an image, whole or not at all.

    `facts`: the other fields of Image. `directory`: where it goes, by default the store,
    named by its digest. The caller holds the lock. Raises OSError.
    """
    digests = {}
    for name in sorted(files):
        (built / name).chmod(0o644)
        with (built / name).open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
    digest = _digest_of(digests)
    manifest = {"format": FORMAT, "digest": digest, **facts, "files": digests}
    (built / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (built / MANIFEST).chmod(0o644)
    built.chmod(0o755)
    final = image_directory() / digest if directory is None else directory
    if final.exists():
        final.rename(built.with_name(f"{built.name}-replaced"))
    built.rename(final)
    image = _read(final)
    if directory is None:
        make_current(image)
    return image


def make_current(image: Image) -> None:
    """Let `find_image` answer with it. Raises OSError."""
    temporary = image.directory.parent / f".{CURRENT}-{secrets.token_hex(8)}"
    temporary.symlink_to(image.digest)
    temporary.replace(image.directory.parent / CURRENT)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Alone in changing the store; waits for whoever else does. Raises OSError."""
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(directory: Path) -> Image:
    path = directory / MANIFEST
    try:
        _only_ours(directory)
        if path.stat().st_size > _MAX_MANIFEST:
            raise ValueError("it is too long")
        fields = json.loads(path.read_bytes())
        if fields.pop("format") != FORMAT:
            raise ValueError("it is of another version of mas-sandbox")
        image = Image(directory=directory, **fields)
        if image.digest != _digest_of(image.files):
            raise ValueError("its digest does not fit its files")
        for name in image.files:
            _only_ours(directory / name)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged(path, str(error)) from error
    return image


def _only_ours(path: Path) -> None:
    status = path.lstat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"{path} could have been written by someone else")


def _digest_of(files: dict[str, str]) -> str:
    """Raises ValueError for a name that leads elsewhere."""
    if any("/" in name or name.startswith(".") for name in files) or not {
        "initrd.img",
        "rootfs.ext4",
    } < set(files):
        raise ValueError("it does not name a kernel, an initrd and a rootfs beside it")
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, why: str) -> SandboxError:
    return SandboxError(
        ErrorCode.SANDBOX_CRASH,
        f"the guest image's {path} cannot be used: {why}; run `{BUILD_COMMAND} --force`",
    )
