"""What the daemon asks for: a document in a file in memory, and descriptors."""

from __future__ import annotations

import _socket
import errno
import os
import struct

from mas_sandbox.wire import strict_json

from . import words

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_INT = struct.Struct("=i")
_MOST_DESCRIPTORS = 253  # SCM_MAX_FD, unix(7)


class Request:
    """One jail. `user`: who it is outside, None for who the zygote is; `arguments`: the
    toolrunner's, without its channel; `entrances`: open files of control groups, which a
    process joins by writing "0"; `descriptors`: those that the plan names, by the name they
    have there."""

    __slots__ = (
        "arguments",
        "channel",
        "descriptors",
        "entrances",
        "environment",
        "plan",
        "stderr",
        "user",
    )

    def __init__(self, received: list[int]) -> None:
        """Raises OSError; ValueError, KeyError, UnknownError for what is no request."""
        document, self.channel, self.stderr, *rest = received
        said = _read(document)
        entrances = said["entrances"]
        self.entrances = rest[:entrances]
        self.descriptors = dict(zip(said["descriptors"], rest[entrances:], strict=True))
        self.user: int | None = said["user"]
        self.arguments: list[str] = said["arguments"]
        self.environment: dict[str, str] = said["environment"]
        if len(self.entrances) != entrances:
            raise ValueError("a control group is missing")
        self.plan = words.Description(said["plan"])


class Common:
    """What all jails have alike, asked for once. `steps` and `descriptors` as of a Request."""

    __slots__ = ("descriptors", "steps")

    def __init__(self, received: list[int]) -> None:
        """Raises OSError; ValueError, KeyError, UnknownError for what is no request."""
        document, *rest = received
        said = _read(document)
        self.steps = words.steps_of(said["plan"])
        self.descriptors = dict(zip(said["descriptors"], rest, strict=True))


def _read(document: int) -> dict[str, Any]:
    size = os.fstat(document).st_size
    said = strict_json.loads(os.pread(document, size, 0), max_bytes=size)
    if not isinstance(said, dict):
        raise ValueError("the request is not an object")  # a type of JSON, not of Python
    return said


def receive(control: _socket.socket) -> list[int] | None:
    """The descriptors of the next request; None when the daemon is gone. Raises OSError."""
    room = _socket.CMSG_SPACE(_MOST_DESCRIPTORS * _INT.size)
    message, ancillary, flags, _ = control.recvmsg(1, room, _socket.MSG_CMSG_CLOEXEC)
    received = [
        number
        for _, kind, data in ancillary
        if kind == _socket.SCM_RIGHTS
        for (number,) in _INT.iter_unpack(data)
    ]
    if flags & _socket.MSG_CTRUNC:
        raise OSError(errno.EMFILE, "not every descriptor of a request could be taken")
    return received if message else None


def answer(control: _socket.socket, text: str, descriptor: int | None = None) -> None:
    """A process's id and its pidfd, or what went wrong."""
    rights = [] if descriptor is None else [_INT.pack(descriptor)]
    told = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, right) for right in rights]
    control.sendmsg([text.encode()], told)
