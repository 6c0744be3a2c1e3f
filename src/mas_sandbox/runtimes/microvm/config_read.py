"""From the bytes of a config file to `MicrovmConfig`: form and types, nothing of the host.

The shape is that of the dataclasses: a field without a default is required, a name
that they do not have is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from mas_sandbox.wire import strict_json

from .config import MicrovmConfig

MAX_FILE_BYTES = 256 * 1024
_WORDS = {
    str: "text in quotes",
    int: "a whole number",
    bool: "true or false",
}


def read(place: str) -> MicrovmConfig:
    """Raises ValueError with the field, or the line, and what to do about it."""
    data = _trusted_bytes(place)
    if place.endswith(".json"):
        document = strict_json.loads(data, MAX_FILE_BYTES)
    else:
        from mas_sandbox.policy.strict_yaml import load  # PyYAML takes 40 ms to import

        document = load(data, {})
    config = _value(document, MicrovmConfig, "")
    assert isinstance(config, MicrovmConfig)
    return config


def _trusted_bytes(place: str) -> bytes:
    """What is in the file, if only we or root can have written it."""
    try:
        # Not blocking, because what is called a file may be a FIFO.
        descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            # The descriptor is asked, not the name: what was checked is what is read.
            _check_owner(place, os.fstat(descriptor))
            data = os.read(descriptor, MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"is over {MAX_FILE_BYTES} bytes")
    return data


def _check_owner(place: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("is not a regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise ValueError(f"belongs to uid {status.st_uid}; run: chown {os.geteuid()} {place}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ValueError(f"others can write it; run: chmod go-w {place}")


def _value(value: Any, kind: Any, name: str) -> Any:
    """`value`, checked to be of type `kind`; `name` is its path in the file."""
    if isinstance(kind, UnionType):
        members = get_args(kind)
        if value is None and NoneType in members:
            return None
        (kind,) = (member for member in members if member is not NoneType)
    if get_origin(kind) is tuple:
        return _items(value, get_args(kind)[0], name)
    if is_dataclass(kind) and isinstance(kind, type):
        return _object(value, kind, name)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ValueError(f"{name} must be one of {', '.join(kind)}, not {_shown(value)}")
        return kind(value)
    if type(value) is not kind:  # a bool is no int here
        raise ValueError(f"{name} must be {_WORDS[kind]}, not {_shown(value)}")
    if kind is str and "\0" in value:
        raise ValueError(f"{name} must not contain NUL")
    return value


def _items(value: Any, kind: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, not {_shown(value)}")
    return tuple(_value(item, kind, f"{name}[{number}]") for number, item in enumerate(value))


def _object(value: Any, kind: type, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name or 'the file'} must be an object, not {_shown(value)}")
    hints = get_type_hints(kind)
    for key in value:
        if key not in hints:
            raise ValueError(_unknown(key, list(hints), name))
    for field in fields(kind):
        if field.default is MISSING and field.name not in value:
            raise ValueError(f"{_inside(name, field.name)} is missing")
    return kind(
        **{key: _value(item, hints[key], _inside(name, key)) for key, item in value.items()}
    )


def _unknown(key: str, known: list[str], name: str) -> str:
    close = get_close_matches(key, known, 1)
    mend = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
    return f"{_inside(name, key[:80])} is not a field of this file; {mend}"


def _inside(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _shown(value: Any) -> str:
    if isinstance(value, Mapping | list):
        return "an object" if isinstance(value, Mapping) else "a list"
    return str(Path(value)) if isinstance(value, Path) else repr(value)[:60]
