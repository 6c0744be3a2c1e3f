"""Firecracker's snapshots, sealed: a template's state and memory on disk.

A clone maps the memory file privately, so the file has to stay as it is for as long as
clones live: it is read-only to them, and each clone first looks whether it is still the
file whose every byte was verified.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..seal import Manifest, Seals
from ..vm import Template, VmSpec
from .requests import MEMORY, STATE
from .root import SHARED_GROUP

DRIVER = "firecracker"
SEALED = (STATE, MEMORY)
Mark = tuple[int, ...]


def seal(
    seals: Seals, root: Path, directory: Path, spec: VmSpec, key: str, hello: bytes
) -> Template:
    """Move a snapshot from a monitor's root to `directory`, which appears whole or not at all.

    Reads whole files: call it in a thread. Raises SandboxError that names the step.
    """
    unfinished = directory.with_name(f".{directory.name}.{secrets.token_hex(4)}")
    created_at = time.time()
    try:
        try:
            unfinished.mkdir(mode=0o700)
            for name in SEALED:
                shutil.move(root / name, unfinished / name)
                os.chown(unfinished / name, os.geteuid(), os.getegid())
            manifest = Manifest(DRIVER, key, hello, created_at)
            seals.seal(unfinished, manifest, SEALED)
            share(unfinished)
            unfinished.rename(directory)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"the template {directory} could not be written: {error}"
        ) from error
    return Template(directory, DRIVER, spec, hello, created_at, key)


def open_sealed(seals: Seals, directory: Path, spec: VmSpec, key: str) -> Template:
    """A template with every byte of it verified; call it in a thread. Raises SandboxError."""
    manifest = seals.verify(directory, DRIVER, key)
    share(directory)
    return Template(directory, DRIVER, spec, manifest.hello, manifest.created_at, key)


def share(directory: Path) -> None:
    """Let jailed monitors read what they are to map; the directory stays closed to all."""
    if os.geteuid() == 0:
        for name in SEALED:
            os.chown(directory / name, 0, SHARED_GROUP)
            (directory / name).chmod(0o640)


def mark(directory: Path) -> Mark:
    """Differs once a file of the template was replaced or written to. Raises SandboxError."""
    try:
        stats = [(directory / name).stat() for name in SEALED]
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"the template {directory} cannot be used: {error.strerror}; remove it, and it is "
            "made again",
        ) from error
    return tuple(
        number
        for each in stats
        for number in (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns)
    )
