"""What is told of a process or of a directory as it happens: one JSON object each, the same
over every transport. Their shapes are those of `api.live`."""

from __future__ import annotations

from binascii import b2a_base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mas_sandbox.wire import strict_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mas_sandbox.wire.errors import SandboxError


@dataclass(frozen=True, slots=True)
class Event:
    """`body`: the JSON object; `resume`: the offset of output to go on from after it, None
    where that has not moved."""

    kind: str
    body: bytes
    resume: int | None = None


def event(kind: str, fields: Mapping[str, object]) -> Event:
    return Event(kind, strict_json.dumps({"type": kind} | dict(fields)))


def output(kind: str, offset: int, data: bytes) -> Event:
    """`stdout`, `stderr` or `pty`; put together by hand, for it is nearly all there is."""
    body = b'{"type":"%b","offset":%d,"data":"%b"}' % (
        kind.encode(),
        offset,
        b2a_base64(data, newline=False),
    )
    return Event(kind, body, offset + len(data))


def gap(dropped: int, resume: int) -> Event:
    return Event("gap", b'{"type":"gap","bytes":%d}' % dropped, resume)


KEEP_ALIVE = Event("keepalive", b'{"type":"keepalive"}')


def error_fields(error: SandboxError | None) -> dict[str, str] | None:
    return None if error is None else {"code": str(error.code), "message": error.message}
