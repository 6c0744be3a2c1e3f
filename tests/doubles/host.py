"""The host's end of a channel, synchronous and complete: drives a real toolrunner.

Follows `mas_sandbox.wire` (frames, credit, messages). A `Link` speaks over any connected
stream; a `Host` starts the toolrunner of its own as the local runtime does, from the
zipapp, over a socketpair, except that it gives up root's capabilities when the tests run
as root: a sandbox never has them.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Self

from mas_sandbox.runtimes.toolrunner import toolrunner_archive
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.frames import FROM_GUEST, GUEST_STREAM, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Call, Hello, Result, Welcome
from mas_sandbox.wire.process import SIZE, STARTED, Process

PATIENCE = 20.0
"""Seconds after which a toolrunner that stays silent is a failed test."""
_PR_CAPBSET_DROP = 24  # prctl(2)


class ToolrunnerEnded(Exception):
    """The channel ended while an answer was awaited."""


class Stream:
    """One call or process as the host sees it. `grants`: whether received data is given back
    as credit; `pid`: of a process that has started; `credit`: to write its input with."""

    def __init__(self, number: int, grants: bool) -> None:
        self.number = number
        self.pid: int | None = None
        self.credit = SendCredit()
        self.grants = grants
        self.output = {Kind.STDOUT: b"", Kind.STDERR: b"", Kind.VALUE: b""}
        self.result: Result | None = None
        self.ended_at = 0.0
        self._credit = ReceiveCredit()

    @property
    def stdout(self) -> bytes:
        return self.output[Kind.STDOUT]

    @property
    def stderr(self) -> bytes:
        return self.output[Kind.STDERR]

    @property
    def value(self) -> Any:
        return strict_json.loads(self.output[Kind.VALUE])

    def take(self, kind: Kind, payload: bytes) -> bytes | None:
        """Keep the data; the payload of a CREDIT frame when one is due."""
        self.output[kind] += payload
        self._credit.received(len(payload))
        return self._credit.consumed(len(payload)) if self.grants else None

    def grant(self) -> bytes | None:
        """Start to give credit back: what is due for all that came until now."""
        self.grants = True
        return self._credit.consumed(sum(map(len, self.output.values())))


class Opened:
    """One stream that the toolrunner opened. `grants`: whether received data is given back
    as credit; `ended`: by the toolrunner; `over`: reset, by whichever end. A stream that
    both have ended is forgotten, and frames that name it are ignored."""

    def __init__(self, link: Link, number: int, service: str) -> None:
        self.number = number
        self.service = service
        self.received = bytearray()
        self.grants = True
        self.ended = self.host_ended = self.over = False
        self.resets = 0
        self.credit = SendCredit()
        self._incoming = ReceiveCredit()
        self._link = link

    def send(self, data: bytes) -> None:
        """Send all of it, taking frames in while there is no credit."""
        while data:
            self._link.until(lambda: self.credit.available or self.over)
            if self.over:
                raise ConnectionResetError
            piece, data = data[: self.credit.available], data[self.credit.available :]
            self.credit.spend(len(piece))
            self._link.send(Kind.DATA, self.number, piece)

    def end(self) -> None:
        self.host_ended = True
        self._link.send(Kind.DATA, self.number)

    def reset(self) -> None:
        self.over = True
        self._link.send(Kind.RESET, self.number)

    def grant(self) -> None:
        """Start to give credit back."""
        self.grants = True
        self._give_back(len(self.received))

    def take(self, kind: Kind, payload: bytes) -> None:
        if self.ended and self.host_ended and not self.over:
            assert kind is not Kind.DATA, "data after the end"
            return
        match kind:
            case Kind.CREDIT:
                self.credit.granted(payload)
            case Kind.RESET:
                self.resets += 1
                assert self.resets == 1, "reset twice"
                if not self.over:
                    self.reset()
            case _:
                assert kind is Kind.DATA
                assert not self.ended, "data after the end"
                self._incoming.received(len(payload))
                self.received += payload
                self.ended = not payload
                if self.grants:
                    self._give_back(len(payload))

    def _give_back(self, count: int) -> None:
        grant = self._incoming.consumed(count)
        if grant and not self.over and not self.ended:
            self._link.send(Kind.CREDIT, self.number, grant)


class Link:
    """One connection to a toolrunner."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(PATIENCE)
        self.streams: dict[int, Stream] = {}
        self.opened: list[Opened] = []
        self.answers: Callable[[Opened, Kind], None] = lambda opened, kind: None
        """Called after each frame of a stream that the toolrunner opened."""
        self.watched: dict[socket.socket, Callable[[], None]] = {}
        """What else to wait for, and what to do when it is readable."""
        self.pongs: list[bytes] = []
        self.hello: Hello | None = None
        self.ready = 0
        self._parser = FrameParser(FROM_GUEST)

    def welcome(
        self,
        extensions: dict[str, str],
        *,
        entropy: bytes = bytes(32),
        time_ns: int = 0,
        hostname: str = "sandbox",
        limits: dict[str, int] | None = None,
    ) -> None:
        awaited = self.ready + 1
        message = Welcome(entropy.hex(), time_ns or time.time_ns(), hostname, extensions, limits)
        self.send(Kind.WELCOME, 0, message.encode())
        self.until(lambda: self.ready == awaited)

    def send(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        self.socket.sendall(encode(kind, stream, payload))

    def start(
        self, tool: str, args: dict[str, Any], *, grants: bool = True, **limits: Any
    ) -> Stream:
        """Open a stream for a call; its answer is awaited by `until` or `finish`."""
        stream = Stream(max(self.streams, default=0) + 1, grants)
        self.streams[stream.number] = stream
        self.send(Kind.CALL, stream.number, Call(tool, args, **limits).encode())
        return stream

    def call(self, tool: str, args: dict[str, Any], **limits: Any) -> Stream:
        return self.finish(self.start(tool, args, **limits))

    def bash(self, command: str, **limits: Any) -> Stream:
        return self.call("bash", {"command": command}, **limits)

    def start_bash(self, command: str, **limits: Any) -> Stream:
        return self.start("bash", {"command": command}, **limits)

    def start_process(self, argv: list[str], *, grants: bool = True, **options: Any) -> Stream:
        """Open a stream for a process; `options`: as of `wire.process.Process`."""
        stream = Stream(max(self.streams, default=0) + 1, grants)
        self.streams[stream.number] = stream
        self.send(Kind.START, stream.number, Process(argv, **options).encode())
        return stream

    def start_shell(self, command: str, **options: Any) -> Stream:
        return self.start_process(["/bin/sh", "-c", command], **options)

    def shell(self, command: str, **options: Any) -> Stream:
        return self.finish(self.start_shell(command, **options))

    def write(self, stream: Stream, data: bytes) -> None:
        """Write all of it to standard input, taking frames in while there is no credit."""
        while data:
            self.until(lambda: stream.credit.available or stream.result is not None)
            if stream.result is not None:
                raise BrokenPipeError
            piece, data = data[: stream.credit.available], data[stream.credit.available :]
            stream.credit.spend(len(piece))
            self.send(Kind.STDIN, stream.number, piece)

    def write_eof(self, stream: Stream) -> None:
        self.send(Kind.STDIN, stream.number)

    def signal(self, stream: Stream, number: int) -> None:
        self.send(Kind.SIGNAL, stream.number, bytes([number]))

    def resize(self, stream: Stream, rows: int, columns: int) -> None:
        self.send(Kind.RESIZE, stream.number, SIZE.pack(rows, columns))

    def cancel(self, stream: Stream) -> None:
        self.send(Kind.CANCEL, stream.number)

    def give_credit(self, stream: Stream) -> None:
        if payload := stream.grant():
            self.send(Kind.CREDIT, stream.number, payload)

    def finish(self, stream: Stream) -> Stream:
        self.until(lambda: stream.result is not None)
        return stream

    def until(self, done: Any, patience_s: float = PATIENCE) -> None:
        """Take frames in until `done()`. Raises ToolrunnerEnded, or TimeoutError."""
        deadline = time.monotonic() + patience_s
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError("the toolrunner did not answer")
            self._wait(PATIENCE)

    def take_for(self, seconds: float) -> None:
        """Take in whatever arrives during that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._wait(left)

    def _wait(self, seconds: float) -> None:
        ready = select.select([self.socket, *self.watched], [], [], seconds)[0]
        for watched in ready:
            if watched is self.socket:
                self._take(self.socket.recv(65536))
            elif watched in self.watched:
                self.watched[watched]()

    def _take(self, data: bytes) -> None:
        if not data:
            raise ToolrunnerEnded
        for kind, number, payload in self._parser.feed(data):
            match kind:
                case Kind.HELLO:
                    self.hello = Hello.parse(payload)
                case Kind.READY:
                    self.ready += 1
                case Kind.PONG:
                    self.pongs.append(payload)
                case Kind.RESULT:
                    stream = self.streams[number]
                    assert stream.result is None, "two results on one stream"
                    stream.result = Result.parse(payload)
                    stream.ended_at = time.monotonic()
                case Kind.STARTED:
                    stream = self.streams[number]
                    assert stream.pid is None, "started twice"
                    assert not any(stream.output.values()), "output before it started"
                    (stream.pid,) = STARTED.unpack(payload)
                case Kind.CREDIT if number < GUEST_STREAM:
                    self.streams[number].credit.granted(payload)
                case Kind.OPEN:
                    assert number not in [stream.number for stream in self.opened]
                    self.opened.append(Opened(self, number, payload.decode("ascii")))
                    self.answers(self.opened[-1], kind)
                case _ if number >= GUEST_STREAM:
                    opened = next(stream for stream in self.opened if stream.number == number)
                    opened.take(kind, payload)
                    self.answers(opened, kind)
                case _:
                    assert self.streams[number].result is None, "data after the result"
                    if credit := self.streams[number].take(kind, payload):
                        self.send(Kind.CREDIT, number, credit)


class Host(Link):
    """A started toolrunner that has been welcomed. A context: leaving it ends the process."""

    def __init__(
        self,
        workspace: Path,
        *flags: str,
        extensions: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = start_toolrunner(
                workspace,
                *("-fd", str(theirs.fileno()), *flags),
                pass_fds=[theirs.fileno()],
                environment=environment,
            )
        super().__init__(ours)
        self.welcome(extensions or {})

    def exit_status(self) -> tuple[int, str]:
        """Wait for the toolrunner to exit by itself: its status and its stderr."""
        _, stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode, stderr.decode()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
        try:
            self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise


def start_toolrunner(
    workspace: Path,
    *flags: str,
    pass_fds: Collection[int] = (),
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    archive = toolrunner_archive(workspace.parent / "cache")
    return subprocess.Popen(
        [sys.executable, "-I", "-S", archive, "-workspace", workspace, *flags],
        pass_fds=pass_fds,
        env=environment or {},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        preexec_fn=_drop_capabilities if os.geteuid() == 0 else None,
    )


def _drop_capabilities() -> None:
    prctl = ctypes.CDLL(None).prctl
    capability = 0
    while prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0) == 0:
        capability += 1
