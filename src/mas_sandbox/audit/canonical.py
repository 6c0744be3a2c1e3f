"""Canonical JSON, RFC 8785: one byte string for each value, so that it can be hashed.

Two things go beyond the RFC, which leaves them undefined: integers outside the
range of a double are written in full, so that no two share a form, and lone
surrogates are kept as they are (as `surrogatepass` encodes them).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping

# Escapes exactly what section 3.2.2.2 asks for: `"`, `\` and controls, lower-case hex.
_string = json.JSONEncoder(ensure_ascii=False).encode
_CONSTANTS = {None: "null", True: "true", False: "false"}
_SAME = frozenset({str, int, bool, type(None)})
"""Of what type a value is that `json` writes as the RFC has it."""
_quick = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, sort_keys=True, separators=(",", ":")
).encode


def canonical(value: object) -> bytes:
    """Canonical JSON of decoded JSON. Raises ValueError for NaN, infinities, other types."""
    if _is_plain(value):
        return _quick(value).encode("utf-8", "surrogatepass")
    parts: list[str] = []
    _write(value, parts.append)
    return "".join(parts).encode("utf-8", "surrogatepass")


def _is_plain(value: object) -> bool:
    """Whether `json`, many times quicker than we are, writes the same: there is no number
    with a fraction, and no name whose order depends on how characters are counted."""
    if type(value) in _SAME:
        return True
    if type(value) is dict:
        for name, item in value.items():
            if type(name) is not str or not name.isascii():
                return False
            if type(item) is not str and not _is_plain(item):
                return False
        return True
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return False


def _write(value: object, put: Callable[[str], None]) -> None:
    if isinstance(value, str):
        put(_string(value))
    elif value is None or isinstance(value, bool):
        put(_CONSTANTS[value])
    elif isinstance(value, int):
        put(str(value))
    elif isinstance(value, float):
        put(_number(value))
    elif isinstance(value, list | tuple):
        opening = "["
        for item in value:
            put(opening)
            _write(item, put)
            opening = ","
        put("]" if value else "[]")
    elif isinstance(value, Mapping):
        opening = "{"
        for name in sorted(value, key=_utf_16):
            put(f"{opening}{_string(name)}:")
            _write(value[name], put)
            opening = ","
        put("}" if value else "{}")
    else:
        raise ValueError(f"{type(value).__name__} is not JSON")


def _utf_16(name: object) -> bytes:
    """Names are sorted by UTF-16 code units, section 3.2.3."""
    if not isinstance(name, str):
        raise ValueError("a name in a JSON object is a string")
    return name.encode("utf-16-be", "surrogatepass")


def _number(value: float) -> str:
    """ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20), as section 3.2.2.3 asks for.

    `repr` finds the same shortest digits; only where they are put differs.
    """
    if not math.isfinite(value):
        raise ValueError("NaN and infinities are not JSON")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, _, exponent = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # Where the point is, counted from the first digit that is not zero.
    point = int(exponent or 0) + len(whole) - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    if 0 < point <= 21:
        text = digits.ljust(point, "0")
        return sign + (text if len(digits) <= point else f"{text[:point]}.{text[point:]}")
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    shown = digits if len(digits) == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{shown}e{'+' if point > 0 else '-'}{abs(point - 1)}"
