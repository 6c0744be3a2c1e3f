"""JSON as RFC 8259 has it, less what makes it ambiguous or dangerous.

Refused, each with a worded ValueError: documents over a byte bound, nesting over
`MAX_DEPTH`, duplicate keys, NaN and infinities, integers beyond what Python
converts (4,300 digits), lone surrogates, and text that is not UTF-8.
"""

from __future__ import annotations

import json
import math
import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MAX_DEPTH = 64
MAX_BYTES = 1024 * 1024


def loads(data: bytes | bytearray | memoryview | str, max_bytes: int = MAX_BYTES) -> Any:
    """Parse one JSON document; raises ValueError with the reason where it is refused."""
    raw = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else bytes(data)
    if len(raw) > max_bytes:
        raise ValueError(f"{len(raw)} bytes of JSON; {max_bytes} at most")
    _check_depth(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    value = _DECODER.decode(text)
    if "\\u" in text:
        _check_surrogates(value)
    return value


def dumps(value: object) -> bytes:
    """Compact JSON as bytes. Raises ValueError for NaN, infinities and odd types."""
    try:
        return _ENCODER.encode(value).encode("ascii")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not representable as JSON: {error}") from error


def _check_depth(raw: bytes) -> None:
    """Refuse deep nesting before the recursive parser sees it, in linear time."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _STRING.sub(b"", raw).translate(None, _NOT_BRACKETS):
        if token in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"JSON nested deeper than {MAX_DEPTH}")
        else:
            depth -= 1


# Possessive, and content with a missing end quote: linear on every input.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {key[:80]!r}")
            seen.add(key)
    return value


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _check_surrogates(value: Any) -> None:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            try:
                item.encode("utf-8")
            except UnicodeEncodeError as error:
                raise ValueError("a lone surrogate in a string") from error
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, dict):
            pending += item
            pending += item.values()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)
_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))
