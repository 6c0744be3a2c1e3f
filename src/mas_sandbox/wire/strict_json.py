"""JSON as RFC 8259 has it, less what makes it ambiguous or dangerous.

Refused, each with a worded ValueError: documents over a byte bound, nesting over
`MAX_DEPTH`, duplicate keys, NaN and infinities, integers beyond what Python
converts (4,300 digits), lone surrogates, and text that is not UTF-8.

The scanner and the encoder are those of the standard `json`, taken from the extension
module beneath it: importing `json` itself, with the `re` that it needs, would be a
quarter of a toolrunner's start.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner

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
    value = _decode(text)
    if "\\u" in text:
        _check_surrogates(value)
    return value


def dumps(value: object) -> bytes:
    """Compact JSON as bytes. Raises ValueError for NaN, infinities and odd types."""
    try:
        # The dict is what finds a value that holds itself; an error leaves it dirty.
        encoder = make_encoder({}, _refuse, encode_basestring_ascii, None, ":", ",", *_FLAGS)
        return "".join(encoder(value, 0)).encode("ascii")
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not representable as JSON: {error}") from error


def _check_depth(raw: bytes) -> None:
    """Refuse deep nesting before the recursive parser sees it, in linear time."""
    if raw.count(b"[") + raw.count(b"{") <= MAX_DEPTH:
        return
    import re

    depth = 0
    for token in re.sub(_STRING, b"", raw, flags=re.DOTALL).translate(None, _NOT_BRACKETS):
        if token in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"JSON nested deeper than {MAX_DEPTH}")
        else:
            depth -= 1


# Possessive, and content with a missing end quote: linear on every input.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _decode(text: str) -> Any:
    start = len(text) - len(text.lstrip(_SPACE))
    try:
        value, end = _scan(text, start)
    except StopIteration as stop:
        raise ValueError(f"no JSON value at character {stop.value}") from None
    except SystemError:
        # It fails without an exception until json.decoder, whose error it is, is imported.
        import json.decoder  # noqa: F401

        value, end = _scan(text, start)
    if text[end:].strip(_SPACE):
        raise ValueError(f"Extra data after character {end}")
    return value


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
    if abs(value) == _INFINITY:
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


def _refuse(value: object) -> NoReturn:
    raise TypeError(f"{type(value).__name__} has no JSON form")


class _Rules:
    """What `json.scanner` reads from a `json.JSONDecoder`."""

    strict = True
    object_hook = None
    object_pairs_hook = staticmethod(_object)
    parse_float = staticmethod(_float)
    parse_int = int
    parse_constant = staticmethod(_constant)


_INFINITY = float("inf")
_SPACE = " \t\n\r"
_FLAGS = (False, False, False)  # sort_keys, skipkeys, allow_nan
# The stubs name the class itself, the interpreter takes anything with these attributes.
_scan = make_scanner(_Rules)  # type: ignore[arg-type]
