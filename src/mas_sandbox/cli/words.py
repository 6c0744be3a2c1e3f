"""Words of a command line as values: durations, pairs, JSON."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mas_sandbox.sdk.errors import InvalidRequest
from mas_sandbox.wire import strict_json

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> int:
    """A duration: seconds, or with units; raises InvalidRequest.

    >>> seconds("90"), seconds("1h30m"), seconds("2d")
    (90, 5400, 172800)
    """
    parts = re.findall(r"(\d+)([smhd]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidRequest(f"{text!r} is no duration; write it as 90, 90s, 15m, 1h30m or 2d")
    return sum(int(number) * _UNITS[unit] for number, unit in parts)


def pairs(words: Iterable[str], option: str) -> dict[str, str]:
    """NAME=VALUE words; raises InvalidRequest.

    >>> pairs(["a=1", "b=x=y"], "--env")
    {'a': '1', 'b': 'x=y'}
    """
    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidRequest(f"{option} {word!r} is not NAME=VALUE")
        found[name] = value
    return found


def json_object(text: str, option: str) -> dict[str, Any]:
    """An object as JSON, or from a file where it is @PATH; raises InvalidRequest."""
    if text.startswith("@"):
        try:
            text = Path(text[1:]).read_text()
        except (OSError, UnicodeDecodeError) as exc:
            raise InvalidRequest(f"{option} {text}: cannot be read ({exc})") from exc
    value = json_value(text, option)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{option} is not a JSON object, such as '{{\"name\": 1}}'")
    return value


def json_value(text: str, option: str) -> Any:
    """Strict JSON; raises InvalidRequest."""
    try:
        return strict_json.loads(text)
    except ValueError as exc:
        raise InvalidRequest(f"{option} is not JSON: {exc}") from exc
