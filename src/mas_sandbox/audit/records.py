"""Records: one JSON object a line, each holding its predecessor's digest.

`digest` is SHA-256, hex, over the canonical JSON (RFC 8785) of the record without
`digest`. In the file a record is ASCII JSON with sorted names, so that no newline,
escape sequence or U+2028 inside a value can look like the end of a record.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

from .canonical import canonical

GENESIS = "0" * 64
"""What the first record has for `previous`."""

Record = dict[str, Any]

_LINE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def timestamp() -> str:
    """Now, RFC 3339, UTC, in milliseconds."""
    milliseconds = time.time_ns() // 1_000_000
    seconds, rest = divmod(milliseconds, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03d}Z"


def digest_of(record: Mapping[str, Any]) -> str:
    body = {name: value for name, value in record.items() if name != "digest"}
    return hashlib.sha256(canonical(body)).hexdigest()


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as its line, newline included."""
    return _LINE.encode(record).encode("ascii") + b"\n"


def seal(fields: Mapping[str, Any], sequence: int, previous: str) -> Record:
    """The record that follows the one with digest `previous`."""
    record = {**fields, "seq": sequence, "previous": previous}
    record["digest"] = digest_of(record)
    return record


def parse(line: bytes) -> Record:
    """The record on a line. Raises ValueError where it is not what `encode` writes, or
    its digest is not its own."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError("is not JSON") from error
    if not isinstance(record, dict) or type(record.get("seq")) is not int:
        raise ValueError("is not a record")
    try:
        unchanged = encode(record) == line and digest_of(record) == record.get("digest")
    except (ValueError, RecursionError) as error:
        raise ValueError("is not a record") from error
    if not unchanged:
        raise ValueError("was changed: its digest is not that of its content")
    return record
