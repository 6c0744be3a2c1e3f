"""Checkpoints: signed statements of what the log was at one record.

A chain of digests shows what was changed inside it, but whoever may write the file can cut
its end or make the whole chain anew. A checkpoint that was copied elsewhere shows both: its
record must still be there, unchanged, and nobody without the key can make another.

A checkpoint is one JSON object on a line. The signature is Ed25519 over the canonical JSON
(RFC 8785) of the object without `signature`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import files
from .canonical import canonical
from .records import timestamp
from .signing import KEY_NAME, PUBLIC_NAME, key_id, signing_key, write_public

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

FORMAT = "mas-sandbox-audit-checkpoint-v1"
CHECKPOINTS_NAME = "audit.checkpoints.jsonl"
_MAX_LINE = 4096
_HEX = {"log": 64, "head": 64, "key": 64, "signature": 128}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """`log`: digest of the log's first record; `seq`, `head`: number and digest of the record
    it is about; `time`: when it was signed, RFC 3339; `key`: which key signed; hex."""

    format: str
    log: str
    seq: int
    head: str
    time: str
    key: str
    signature: str

    def encode(self) -> bytes:
        """As a line, newline included."""
        return canonical(asdict(self)) + b"\n"


def make(key: Ed25519PrivateKey, log: str, seq: int, head: str, time: str) -> Checkpoint:
    fields: dict[str, Any] = {
        "format": FORMAT,
        "log": log,
        "seq": seq,
        "head": head,
        "time": time,
        "key": key_id(key.public_key()),
    }
    return Checkpoint(**fields, signature=key.sign(canonical(fields)).hex())


def sign(log: Path, seq: int, head: str) -> Checkpoint:
    """Sign a head of the log with the key beside it, and keep the checkpoint there.

    Blocks. Raises OSError, and ValueError where the log's first record is damaged.
    """
    key = signing_key(log.with_name(KEY_NAME))
    write_public(key, log.with_name(PUBLIC_NAME))
    checkpoint = make(key, files.log_id(log), seq, head, timestamp())
    _append(log.with_name(CHECKPOINTS_NAME), checkpoint.encode())
    return checkpoint


def parse(line: bytes) -> Checkpoint:
    """Raises ValueError where a line is not what `encode` writes. Nothing is verified."""
    try:
        fields = json.loads(line)
        well_formed = (
            isinstance(fields, dict)
            and fields.get("format") == FORMAT
            and set(fields) == set(Checkpoint.__slots__)
            and type(fields["seq"]) is int
            and fields["seq"] > 0
            and isinstance(fields["time"], str)
            and all(_is_hex(fields[name], length) for name, length in _HEX.items())
        )
    except (ValueError, RecursionError) as error:
        raise ValueError("is not a checkpoint") from error
    if not well_formed:
        raise ValueError("is not a checkpoint")
    return Checkpoint(**fields)


def check(checkpoint: Checkpoint, key: Ed25519PublicKey) -> None:
    """Raises ValueError where it was not signed with this key as it is."""
    from cryptography.exceptions import InvalidSignature

    if checkpoint.key != key_id(key):
        raise ValueError(f"was signed with another key, {checkpoint.key[:16]}...")
    fields = asdict(checkpoint)
    signature = bytes.fromhex(fields.pop("signature"))
    try:
        key.verify(signature, canonical(fields))
    except InvalidSignature as error:
        raise ValueError("was changed: its signature is not that of its content") from error


def read(path: Path, key: Ed25519PublicKey) -> tuple[list[Checkpoint], list[str]]:
    """The checkpoints of a file that this key signed, and what is wrong with the others.

    Raises OSError where it cannot be read.
    """
    sound, wrong = [], []
    with path.open("rb") as file:
        for number, line in enumerate(iter(partial(file.readline, _MAX_LINE), b""), start=1):
            try:
                checkpoint = parse(line)
                check(checkpoint, key)
            except ValueError as error:
                wrong.append(f"line {number} of {path.name} {error}")
            else:
                sound.append(checkpoint)
    if not sound and not wrong:
        wrong.append(f"{path.name} holds no checkpoint")
    return sound, wrong


def _is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and re.fullmatch(rf"[0-9a-f]{{{length}}}", value) is not None


def _append(path: Path, line: bytes) -> None:
    """On disk when it returns. What a crash left of a line before is cut off."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        size = os.fstat(descriptor).st_size
        end, torn = files.line_before(descriptor, size)
        if torn:
            os.ftruncate(descriptor, end)
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
