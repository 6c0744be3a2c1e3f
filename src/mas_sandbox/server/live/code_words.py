"""What a kernel says, held to its form: whoever has written it is not to be trusted."""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from typing import Any

from mas_sandbox.wire import strict_json

from .code_marks import MAX_MESSAGE, Said

_MEDIA_TYPE = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+-]{0,126}")
_MAX_LOOKS = 32
_MAX_NAME = 1024
_LEFT_OUT = (
    "<a result was left out: as JSON it is over 8 MiB or nested too deeply, or too many of this"
    " sandbox's results wait to be read>"
)


@dataclass(frozen=True, slots=True)
class Ready:
    """`kernel`: `plain` or `ipython`."""

    kernel: str


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no such kernel."""

    message: str


@dataclass(frozen=True, slots=True)
class Begun:
    """It can be interrupted."""

    execution: int


@dataclass(frozen=True, slots=True)
class Ended:
    """`status`: ok, exception or interrupted; empty on the pipe of errors."""

    execution: int
    status: str


@dataclass(frozen=True, slots=True)
class Told:
    """For whoever reads the run. `size`: about how many bytes that are."""

    kind: str
    fields: dict[str, Any]
    size: int


def understood(said: Said) -> Ready | Failed | Begun | Ended | Told:
    """A message as what it is; for what makes no sense, a result that says so."""
    if said.payload is not None:
        try:
            return _read(said.payload)
        except (KeyError, TypeError, ValueError, AttributeError):
            pass  # no kernel of ours has said it, or it cannot be told as JSON
    return Told("result", {"data": {"text/plain": _LEFT_OUT}, "main": False}, len(_LEFT_OUT))


def _read(payload: bytes) -> Ready | Failed | Begun | Ended | Told:
    message = strict_json.loads(payload, max_bytes=MAX_MESSAGE)
    match message["type"]:
        case "result":
            data = {_media_type(kind): _look(kind, look) for kind, look in message["data"].items()}
            if not 0 < len(data) <= _MAX_LOOKS or type(message["main"]) is not bool:
                raise ValueError("no result")
            return Told("result", {"data": data, "main": message["main"]}, len(payload))
        case "exception":
            fields = {name: _text(message[name]) for name in ("name", "value", "traceback")}
            return Told("exception", fields, len(payload))
        case "begin":
            return Begun(_number(message["execution"]))
        case "end":
            status = message.get("status", "")
            if status not in ("", "ok", "exception", "interrupted"):
                raise ValueError("no status")
            return Ended(_number(message["execution"]), status)
        case "ready" if message["kernel"] in ("plain", "ipython"):
            return Ready(message["kernel"])
        case "failed":
            return Failed(_text(message["message"])[:_MAX_NAME])
    raise ValueError("no message")


def _media_type(name: str) -> str:
    if _MEDIA_TYPE.fullmatch(name) is None:
        raise ValueError("no media type")
    return name


def _look(media_type: str, value: Any) -> Any:
    """Text, base64 for what is none, and any value for JSON."""
    if media_type.endswith(("/json", "+json")):
        return value
    text = _text(value)
    if media_type in ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf"):
        binascii.a2b_base64(text, strict_mode=True)
    return text


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError("no number")
    return value
