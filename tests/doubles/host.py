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
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

from mas_sandbox.runtimes.toolrunner import toolrunner_archive
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.credit import ReceiveCredit
from mas_sandbox.wire.frames import FROM_GUEST, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Call, Hello, Result, Welcome

PATIENCE = 20.0
"""Seconds after which a toolrunner that stays silent is a failed test."""
_PR_CAPBSET_DROP = 24  # prctl(2)


class ToolrunnerEnded(Exception):
    """The channel ended while an answer was awaited."""


class Stream:
    """One call as the host sees it. `grants`: whether received data is given back as credit."""

    def __init__(self, number: int, grants: bool) -> None:
        self.number = number
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


class Link:
    """One connection to a toolrunner."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.settimeout(PATIENCE)
        self.streams: dict[int, Stream] = {}
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

    def cancel(self, stream: Stream) -> None:
        self.send(Kind.CANCEL, stream.number)

    def give_credit(self, stream: Stream) -> None:
        if payload := stream.grant():
            self.send(Kind.CREDIT, stream.number, payload)

    def finish(self, stream: Stream) -> Stream:
        self.until(lambda: stream.result is not None)
        return stream

    def until(self, done: Any) -> None:
        """Take frames in until `done()`. Raises ToolrunnerEnded, or TimeoutError."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError("the toolrunner did not answer")
            self._take(self.socket.recv(65536))

    def take_for(self, seconds: float) -> None:
        """Take in whatever arrives during that time."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if select.select([self.socket], [], [], left)[0]:
                self._take(self.socket.recv(65536))

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
