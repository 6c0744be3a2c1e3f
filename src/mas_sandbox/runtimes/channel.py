"""The host's end of the channel: many calls at once over one byte stream."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, cast

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.credit import ReceiveCredit
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import (
    FROM_GUEST,
    GUEST_STREAM,
    FrameParser,
    Kind,
    ProtocolError,
    encode,
)
from mas_sandbox.wire.messages import Call, Hello, Result, Welcome
from mas_sandbox.wire.process import Process

from .live import LiveStream
from .outcome import CallOutcome
from .streams import GuestStream, GuestStreams

GRACE_S = 1.8
"""How long past a call's deadline, or past CANCEL, the guest may take to answer: an emulated
machine on a busy host needs more than one second, and at two all must have ended."""
HEARTBEAT_S = 5.0
"""While calls run, a PING goes out this often; three in a row unanswered lose the guest."""


class _Stream:
    """One call in flight, from the host's side."""

    __slots__ = ("abandoned", "credit", "output", "remaining", "result")

    def __init__(self, call: Call, loop: asyncio.AbstractEventLoop) -> None:
        self.output = {
            Kind.STDOUT: bytearray(),
            Kind.STDERR: bytearray(),
            Kind.VALUE: bytearray(),
        }
        self.remaining = call.output_bytes
        self.credit = ReceiveCredit()
        self.result: asyncio.Future[Result] = loop.create_future()
        self.abandoned = False

    def take(self, kind: Kind, payload: bytes) -> bytes | None:
        """Keep output; returns the credit to give back, if any is due."""
        self.credit.received(len(payload))
        self.remaining -= len(payload)
        if self.remaining < 0:
            raise ProtocolError("output beyond the call's limit")
        if not self.abandoned:
            self.output[kind] += payload
        return self.credit.consumed(len(payload))

    def finish(self, result: Result) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, error: SandboxError) -> None:
        _fail(self.result, error)

    def note_started(self, payload: bytes) -> None:
        raise ProtocolError("a STARTED frame for a call")

    def granted(self, payload: bytes) -> None:
        raise ProtocolError("credit for a call that is written nothing")


class Channel(asyncio.Protocol):
    """Speaks to one toolrunner. Everything it says is checked; the first broken rule
    drops the connection and fails every call with `guest_protocol_error`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = FrameParser(FROM_GUEST)
        self._streams: dict[int, _Stream | LiveStream] = {}
        self._last_stream = 0
        self._guest_streams = GuestStreams(self._send, self._breach)
        self._transport: asyncio.Transport | None = None
        self._hello: asyncio.Future[Hello] = self._loop.create_future()
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._heartbeat: asyncio.TimerHandle | None = None
        self._unanswered = 0
        self._held = False
        self._greeting: Welcome | None = None
        self.lost: SandboxError | None = None
        """Why the channel is gone; None while it lives."""

    def serve(
        self, service: str, handler: Callable[[GuestStream], Coroutine[Any, Any, None]]
    ) -> None:
        """Let the guest open streams to `service`: `handler` runs as a task for each. When
        it returns the stream is ended, when it raises the stream is reset; a ProtocolError
        ends the sandbox."""
        self._guest_streams.serve(service, handler)

    async def welcome(
        self,
        extensions: dict[str, str],
        hostname: str,
        timeout_s: float,
        limits: dict[str, int] | None = None,
        hello: Hello | None = None,
        mounts: list[tuple[str, str]] | None = None,
        at_once: bool = False,
    ) -> Hello:
        """Greet the toolrunner: fresh entropy, the time, the operator's tools, limits,
        host directories.

        `hello`: what it said before it was cloned, where it will not say it again; `at_once`:
        before it has said anything, where what is sent waits for it. Raises SandboxError
        `sandbox_crash` when it is not up within `timeout_s`.
        """
        self._greeting = Welcome("", 0, hostname, extensions, limits, mounts)
        try:
            async with asyncio.timeout(timeout_s):
                if hello is not None:
                    self._hello.set_result(hello)
                if at_once:
                    self._greet(self._greeting)
                hello = await asyncio.shield(self._hello)
                if not at_once:
                    self._greet(self._greeting)
                await self._ready
        except TimeoutError as error:
            crash = SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the toolrunner did not come up within {timeout_s:g} s"
            )
            self._lose(crash)
            raise crash from error
        return hello

    async def greet_again(self, timeout_s: float) -> None:
        """Tell the toolrunner of a machine that stood still what time it is, with the rest of
        its WELCOME. Raises SandboxError `guest_lost` when it does not answer."""
        assert self._greeting is not None
        try:
            async with asyncio.timeout(timeout_s):
                self._greet(self._greeting)
                await self._ready
        except TimeoutError as error:
            lost = SandboxError(
                ErrorCode.GUEST_LOST, f"the toolrunner did not go on within {timeout_s:g} s"
            )
            self._lose(lost)
            raise lost from error

    def _greet(self, message: Welcome) -> None:
        """`_ready` is done once it has answered."""
        if self.lost is not None:
            raise _copy(self.lost)
        message.entropy, message.time_ns = secrets.token_hex(32), time.time_ns()
        self._ready = self._loop.create_future()
        self._send(Kind.WELCOME, 0, message.encode())

    def hold(self) -> None:
        """Begin nothing and expect no answers until `release`: the sandbox is being paused.

        Raises SandboxError `invalid_request` while calls run, whose deadlines would pass; live
        streams have none.
        """
        calls = sum(isinstance(stream, _Stream) for stream in self._streams.values())
        if calls:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"{calls} calls run in the sandbox, and a pause would let their deadlines pass; "
                "wait until they have ended, or cancel them",
            )
        self._held = True
        if self._heartbeat is not None:
            self._heartbeat.cancel()
            self._heartbeat = None

    def release(self) -> None:
        """The sandbox goes on. Safe where nothing was held."""
        self._held = False
        if self._streams and self.lost is None:
            self._begin_beating()

    async def call(self, call: Call) -> CallOutcome:
        """Run one call to its end.

        Raises SandboxError: `invalid_request` when it does not fit a frame,
        `guest_lost` or `guest_protocol_error` when the channel is gone, `timeout`
        when the guest let the deadline and its grace pass (the channel is then closed).
        """
        try:
            payload = call.encode()
        except ValueError as error:
            raise SandboxError(ErrorCode.INVALID_REQUEST, str(error)) from error
        self._refuse_while_held()
        if self.lost is not None:
            raise self.lost
        stream = _Stream(call, self._loop)
        number = self._free_number()
        self._open(number, stream)
        started = time.monotonic()
        self._send(Kind.CALL, number, payload)
        deadline = call.timeout_ms / 1000 + GRACE_S if call.timeout_ms else None
        try:
            async with asyncio.timeout(deadline):
                result = await asyncio.shield(stream.result)
        except TimeoutError as error:
            late = SandboxError(
                ErrorCode.TIMEOUT,
                f"no answer {GRACE_S:g} s after the deadline of {call.timeout_ms} ms; "
                "the sandbox was ended",
            )
            self._lose(SandboxError(ErrorCode.GUEST_LOST, "the toolrunner stopped answering"))
            raise late from error
        except asyncio.CancelledError:
            self._abandon(number, stream)
            raise
        return _outcome(stream, result, (time.monotonic() - started) * 1000)

    def start(self, process: Process) -> LiveStream:
        """Start a process. Raises SandboxError: `invalid_request` when it does not fit a
        frame, `guest_lost` or `guest_protocol_error` when the channel is gone."""
        return self._open_live(Kind.START, process)

    def stream(self, call: Call) -> LiveStream:
        """Begin a call whose output is taken as it comes, and that is written to. Its
        deadline is the guest's to keep; raises SandboxError as `start` does."""
        return self._open_live(Kind.CALL, call)

    def _open_live(self, kind: Kind, message: Call | Process) -> LiveStream:
        try:
            payload = message.encode()
        except ValueError as error:
            raise SandboxError(ErrorCode.INVALID_REQUEST, str(error)) from error
        self._refuse_while_held()
        if self.lost is not None:
            raise _copy(self.lost)
        number = self._free_number()
        stream = LiveStream(number, self._send)
        self._open(number, stream)
        self._send(kind, number, payload)
        return stream

    def _refuse_while_held(self) -> None:
        if self._held:
            raise SandboxError(ErrorCode.INVALID_REQUEST, "the sandbox is paused; resume it first")

    def close(self) -> None:
        """Say goodbye and drop the connection. Calls in flight fail with `interrupted`."""
        if self.lost is None:
            self._send(Kind.GOODBYE, 0, b"")
            self._lose(SandboxError(ErrorCode.INTERRUPTED, "the sandbox was stopped"))

    async def aclose(self) -> None:
        """`close`, and wait until no service has a stream of this guest's in hand."""
        self.close()
        await self._guest_streams.settled()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        try:
            for kind, number, payload in self._parser.feed(data):
                self._receive(kind, number, payload)
        except ProtocolError as error:
            self._breach(error)

    def connection_lost(self, error: Exception | None) -> None:
        self._lose(SandboxError(ErrorCode.GUEST_LOST, "the toolrunner is gone"))

    def _receive(self, kind: Kind, number: int, payload: bytes) -> None:
        match kind:
            case Kind.STDOUT | Kind.STDERR | Kind.VALUE:
                grant = self._stream(number, kind).take(kind, payload)
                if grant is not None:
                    self._send(Kind.CREDIT, number, grant)
            case Kind.RESULT:
                stream = self._stream(number, kind)
                result = Result.parse(payload)
                del self._streams[number]
                stream.finish(result)
            case Kind.STARTED:
                self._stream(number, kind).note_started(payload)
            case Kind.CREDIT if number < GUEST_STREAM:
                # It may have crossed the end of its stream.
                if (writing := self._streams.get(number)) is not None:
                    writing.granted(payload)
            case Kind.PONG:
                self._unanswered = 0
            case Kind.HELLO:
                if self._hello.done():
                    raise ProtocolError("a second HELLO")
                self._hello.set_result(Hello.parse(payload))
            case Kind.READY:
                if not self._ready.done():
                    self._ready.set_result(None)
            case _:
                self._guest_streams.receive(kind, number, payload)

    def _stream(self, number: int, kind: Kind) -> _Stream | LiveStream:
        stream = self._streams.get(number)
        if stream is None:
            raise ProtocolError(f"a {kind.name} frame on stream {number}, which is not open")
        return stream

    def _free_number(self) -> int:
        number = self._last_stream
        while number == 0 or number in self._streams:
            number = (number + 1) % GUEST_STREAM
        self._last_stream = (number + 1) % GUEST_STREAM
        return number

    def _open(self, number: int, stream: _Stream | LiveStream) -> None:
        self._streams[number] = stream
        self._begin_beating()

    def _begin_beating(self) -> None:
        if self._heartbeat is None:
            self._unanswered = 0
            self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)

    def _abandon(self, number: int, stream: _Stream) -> None:
        """Cancel a call nobody waits for; its last frames are swallowed."""
        if self.lost is not None or number not in self._streams:
            return
        stream.abandoned = True
        self._send(Kind.CANCEL, number, b"")
        self._loop.call_later(GRACE_S, self._expire, stream)

    def _expire(self, stream: _Stream) -> None:
        if not stream.result.done():
            self._lose(SandboxError(ErrorCode.GUEST_LOST, "the toolrunner ignored a cancel"))

    def _beat(self) -> None:
        self._heartbeat = None
        if not self._streams or self.lost is not None:
            return
        if self._unanswered >= 3:
            self._lose(SandboxError(ErrorCode.GUEST_LOST, "the toolrunner stopped answering"))
            return
        self._unanswered += 1
        self._send(Kind.PING, 0, b"")
        self._heartbeat = self._loop.call_later(HEARTBEAT_S, self._beat)

    def _send(self, kind: Kind, number: int, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.write(encode(kind, number, payload))

    def _breach(self, error: ProtocolError) -> None:
        self._lose(SandboxError(ErrorCode.GUEST_PROTOCOL_ERROR, f"the toolrunner sent {error}"))

    def _lose(self, reason: SandboxError) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        if self._transport is not None:
            self._transport.close()
        for future in (self._hello, self._ready):
            _fail(future, reason)
        for stream in self._streams.values():
            stream.fail(reason)
        self._streams.clear()
        self._guest_streams.close()


async def open_channel(end: socket.socket) -> Channel:
    """The channel over a connected stream socket, which is the channel's from now on."""
    end.setblocking(False)
    loop = asyncio.get_running_loop()
    if end.family == socket.AF_UNIX:
        return (await loop.create_unix_connection(Channel, sock=end))[1]
    return (await loop.create_connection(Channel, sock=end))[1]


def _copy(error: SandboxError) -> SandboxError:
    """Each waiter raises its own exception, so that tracebacks do not pile up on one."""
    return SandboxError(error.code, error.message)


def _fail(future: asyncio.Future[Any], error: SandboxError) -> None:
    if not future.done():
        future.set_exception(_copy(error))
        future.exception()  # marked as retrieved: nobody may be waiting


def _outcome(stream: _Stream, result: Result, wall_ms: float) -> CallOutcome:
    code = ErrorCode(result.code) if result.code else None
    message = result.message
    value: Any = None
    raw = stream.output[Kind.VALUE]
    has_value = bool(raw) and code is None
    if has_value:
        try:
            value = strict_json.loads(raw, max_bytes=len(raw))
        except ValueError as error:
            has_value, code = False, ErrorCode.TOOL_FAILED
            message = f"the tool's value is not JSON: {error}"
    processors = os.cpu_count() or 1
    return CallOutcome(
        exit_code=result.exit_code,
        stdout=bytes(stream.output[Kind.STDOUT]),
        stderr=bytes(stream.output[Kind.STDERR]),
        value=value,
        has_value=has_value,
        code=code,
        message=message,
        truncated=code is ErrorCode.OUTPUT_LIMIT,
        cpu_ms=min(result.cpu_us // 1000, int(wall_ms * processors) + 1000),
        mem_mb=min(result.max_rss_kb, _PHYSICAL_KB) / 1024,
        wall_ms=wall_ms,
        reason=result.reason,
    )


_PHYSICAL_KB = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024
