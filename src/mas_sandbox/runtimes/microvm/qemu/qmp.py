"""QEMU's machine protocol, as far as a machine of ours needs it.

JSON objects, one a line: a greeting, then for each command a `return` or an `error` in
the order they were sent, with events between. Source: QEMU's docs/interop/qmp-spec.rst.
The monitor may be under a guest's control by the time it answers, so what it says is
bounded and checked.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

MAX_LINE = 256 * 1024
"""The longest answer to any command that we send is some 10 KB."""

Event = Callable[[dict[str, Any]], bool]


class Qmp(asyncio.Protocol):
    """A client. Whatever breaks the protocol, or a deadline, ends the connection."""

    def __init__(self, end: socket.socket) -> None:
        """`end`: kept beside the transport, for sending open files."""
        self._loop = asyncio.get_running_loop()
        self._end = end
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._answers: deque[asyncio.Future[Any]] = deque()
        self._events: list[tuple[str, Event, asyncio.Future[dict[str, Any]]]] = []
        self.greeting: asyncio.Future[str] = self._loop.create_future()
        """QEMU's version, once it is up."""
        self.lost: SandboxError | None = None
        """Why the connection is gone; None while it lives."""

    @classmethod
    async def over(cls, end: socket.socket) -> Qmp:
        """A client over a connected socket, which is its own from now on.

        Commands may be sent before QEMU is up: it reads them when it is.
        """
        end.setblocking(False)
        loop = asyncio.get_running_loop()
        _, client = await loop.create_unix_connection(lambda: cls(end.dup()), sock=end)
        client.send("qmp_capabilities")
        return client

    def send(
        self, command: str, arguments: dict[str, Any] | None = None, file: int | None = None
    ) -> asyncio.Future[Any]:
        """Send a command, with an open file beside it for `getfd`; what it returns.

        Commands run in the order they are sent, so nobody has to wait between them.
        """
        answer = self._future()
        if self.lost is not None:
            answer.set_exception(_copy(self.lost))
            return answer
        self._answers.append(answer)
        line = strict_json.dumps({"execute": command, "arguments": arguments or {}}) + b"\n"
        if file is None:
            assert self._transport is not None
            self._transport.write(line)
        else:
            socket.send_fds(self._end, [line], [file])
        return answer

    def event(self, name: str, wanted: Event = lambda data: True) -> asyncio.Future[dict[str, Any]]:
        """The data of the next event of this name that is `wanted`. Ask before the command."""
        future = self._future()
        if self.lost is not None:
            future.set_exception(_copy(self.lost))
        else:
            self._events.append((name, wanted, future))
        return future

    def close(self) -> None:
        """Drop the connection. Safe to call twice."""
        self._lose("it was closed")

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._lose("the monitor is gone")

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = rest
        if len(rest) > MAX_LINE:
            self._lose(f"the monitor sent a line over {MAX_LINE} bytes")
            return
        for line in lines:
            try:
                self._receive(strict_json.loads(line, MAX_LINE))
            except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
                self._lose(f"the monitor sent what is not QMP: {error!r}")
                return

    def _receive(self, message: dict[str, Any]) -> None:
        match message:
            case {"QMP": {"version": {"qemu": version}}} if not self.greeting.done():
                words = ".".join(str(int(version[part])) for part in ("major", "minor", "micro"))
                self.greeting.set_result(words)
            case {"event": str(name)}:
                self._tell(name, dict(message.get("data", {})))
            case {"return": value}:
                _settle(self._answers.popleft(), value)
            case {"error": {"desc": str(reason)}}:
                refused = SandboxError(ErrorCode.SANDBOX_CRASH, f"QEMU refused: {reason[:500]}")
                _settle(self._answers.popleft(), refused)
            case _:
                raise ValueError("neither greeting, event, return nor error")

    def _tell(self, name: str, data: dict[str, Any]) -> None:
        for waiting in self._events:
            if waiting[0] == name and waiting[1](data):
                _settle(waiting[2], data)
        self._events = [waiting for waiting in self._events if not waiting[2].done()]

    def _lose(self, why: str) -> None:
        if self.lost is not None:
            return
        self.lost = SandboxError(ErrorCode.SANDBOX_CRASH, why)
        if self._transport is not None:
            self._transport.close()
        self._end.close()
        waiting = [self.greeting, *self._answers, *(future for _, _, future in self._events)]
        for future in waiting:
            _settle(future, _copy(self.lost))
        self._answers.clear()
        self._events.clear()

    def _future(self) -> asyncio.Future[Any]:
        return self._loop.create_future()


def _settle(future: asyncio.Future[Any], value: object) -> None:
    if future.done():  # whoever waited has given up
        return
    if isinstance(value, SandboxError):
        future.set_exception(value)
        future.exception()  # marked as retrieved: nobody may be waiting
    else:
        future.set_result(value)


def _copy(error: SandboxError) -> SandboxError:
    """Each waiter raises its own exception, so that tracebacks do not pile up on one."""
    return SandboxError(error.code, error.message)
