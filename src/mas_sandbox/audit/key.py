"""Keys in files: the one under which arguments are recorded without being readable, and how
any secret is read and made."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from .canonical import canonical
from .storage import sync_directory

_BYTES = 32
_MOST = 4096


def load_key(path: Path) -> bytes:
    """The key, made on first use.

    Raises OSError where the file is not a key that only we can read.
    """
    key = secret(path, _BYTES) or make_secret(path, secrets.token_bytes(_BYTES))
    if len(key) != _BYTES:
        raise OSError(f"{path} is not a key of {_BYTES} bytes; move it away")
    return key


def secret(path: Path, most: int) -> bytes | None:
    """What is in a file that is ours and nobody else can read; None where there is no file.

    One byte more than `most` is read, so that a longer file shows. Raises OSError for a
    link, for what is no regular file, and for one that is somebody else's or open to them.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(f"{path} is not a file of uid {os.geteuid()}; move it away")
        if status.st_mode & 0o077:
            raise OSError(f"{path} can be read by others; run: chmod 600 {path}")
        return os.read(descriptor, most + 1)
    finally:
        os.close(descriptor)


def make_secret(path: Path, content: bytes) -> bytes:
    """Make the file, and return its content: that of another who was quicker, if there is one."""
    # Under its own name only once it is whole and on disk.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    with suppress(FileExistsError):
        os.link(unfinished, path)
    unfinished.unlink()
    sync_directory(path.parent)
    return secret(path, _MOST) or content


def args_hmac(key: bytes, args: Any) -> str:
    """HMAC-SHA-256, hex, over the canonical JSON of a call's arguments."""
    return hmac.new(key, canonical(args), hashlib.sha256).hexdigest()
