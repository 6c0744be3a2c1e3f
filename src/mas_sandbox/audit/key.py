"""The key under which arguments are recorded without being readable."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Any

from .canonical import canonical

_BYTES = 32


def load_key(path: Path) -> bytes:
    """The key, made on first use. Called while the log is locked.

    Raises OSError where the file is not a key that only we can read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make_key(path)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise OSError(f"{path} is not a file of uid {os.geteuid()}; move it away")
        if status.st_mode & 0o077:
            raise OSError(f"{path} can be read by others; run: chmod 600 {path}")
        key = os.read(descriptor, _BYTES + 1)
    finally:
        os.close(descriptor)
    if len(key) != _BYTES:
        raise OSError(f"{path} is not a key of {_BYTES} bytes; move it away")
    return key


def _make_key(path: Path) -> bytes:
    key = secrets.token_bytes(_BYTES)
    # Under its own name only once it is whole and on disk.
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, key)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    unfinished.rename(path)
    return key


def args_hmac(key: bytes, args: Any) -> str:
    """HMAC-SHA-256, hex, over the canonical JSON of a call's arguments."""
    return hmac.new(key, canonical(args), hashlib.sha256).hexdigest()
