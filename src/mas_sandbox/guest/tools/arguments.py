"""Arguments as a tool needs them. The host checked them against the schema; the guest
does not take its word. Everything here raises ToolFailure `invalid_request`."""

from __future__ import annotations

from . import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def only(args: dict[str, Any], *names: str) -> None:
    """Refuse an argument the tool does not have: it would be ignored silently."""
    for name in args:
        if name not in names:
            raise _invalid(f"unknown argument {name[:80]!r}; the arguments are {', '.join(names)}")


def text(args: dict[str, Any], name: str, default: str | None = None) -> str:
    """A string that UTF-8 can hold. Required where there is no default."""
    value = args.get(name, default)
    if not isinstance(value, str):
        raise _invalid(f"{name} must be a string" if name in args else f"{name} is missing")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise _invalid(f"{name} holds a lone surrogate, which is not text") from error
    return value


def integer(args: dict[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = args.get(name, default)
    if type(value) is not int or not low <= value <= high:
        raise _invalid(f"{name} must be an integer from {low} to {high}")
    return value


def flag(args: dict[str, Any], name: str, default: bool = False) -> bool:
    value = args.get(name, default)
    if type(value) is not bool:
        raise _invalid(f"{name} must be true or false")
    return value


def _invalid(message: str) -> ToolFailure:
    return ToolFailure(message, "invalid_request")
