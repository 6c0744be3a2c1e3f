"""The toolrunner's one loop: frames in, calls forked, their output out, in turns.

Nothing here waits but `poll`. A pipe is polled only while its stream has credit and the
channel has room, so a flood stays in the pipe of whoever makes it.
"""

from __future__ import annotations

import os
import select
import sys
import time

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import FROM_HOST, FrameParser, Kind, ProtocolError
from mas_sandbox.wire.messages import PROTOCOL, Call, Hello, Result, Welcome

from . import environment, processes, tools, welcome
from .calls import RunningCall
from .child import DESCRIBE, Plan
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .connection import Connection
    from .extensions import Extensions
    from .listener import Listener
    from .machine import Machine
    from .signals import Signals
    from .tools import Tool

_ACCEPTED = FROM_HOST - {Kind.STDIN}
"""No tool reads its standard input, so data for one is a breach of the protocol."""
_RETRY_SECONDS = 0.01
_SHUT_DOWN_SECONDS = 2.0


class Settings:
    """`workspace`: the real directory behind `/workspace`; `temporary`: a call's TMPDIR;
    `landlock`: the ABI version to restrict calls with, 0 for none; `machine`: what is ours
    to set and to limit where the kernel is, else None."""

    __slots__ = ("landlock", "machine", "temporary", "workspace")

    def __init__(
        self,
        workspace: str,
        *,
        temporary: str,
        landlock: int = 0,
        machine: Machine | None = None,
    ) -> None:
        self.workspace = workspace
        self.temporary = temporary
        self.landlock = landlock
        self.machine = machine

    @property
    def controls(self) -> list[str]:
        """The walls that the toolrunner itself puts up, or will with WELCOME's limits."""
        paths = ["paths"] if self.landlock else []
        return paths + (self.machine.controls if self.machine is not None else [])


class Loop:
    """Serves one connection. `told_to_end`: by GOODBYE or a signal, not by its end.

    `listener`: where a second host would call meanwhile, to be turned away.
    """

    def __init__(
        self,
        connection: Connection,
        settings: Settings,
        signals: Signals,
        listener: Listener | None = None,
    ) -> None:
        self.told_to_end = False
        self._connection = connection
        self._settings = settings
        self._signals = signals
        self._listener = listener
        self._channel = -1
        self._parser = FrameParser(_ACCEPTED)
        self._poll = select.poll()
        self._calls: dict[int, RunningCall] = {}
        self._polled: dict[int, RunningCall] = {}
        self._welcome: Welcome | None = None
        self._extensions: Extensions | None = None
        self._open = True
        self._turn = 0

    def run(self) -> None:
        """Serve until the channel ends, and leave no process behind.

        Raises ProtocolError where the host breaks the protocol, Unenforceable where it
        asks for a limit that this machine cannot hold.
        """
        python = sys.version.partition(" ")[0]
        hello = Hello(PROTOCOL, os.getpid(), python, tools.NAMES, self._settings.controls)
        self._connection.send(Kind.HELLO, 0, hello.encode())
        self._poll.register(self._signals.descriptor, select.POLLIN)
        if self._listener is not None:
            self._poll.register(self._listener.descriptor, select.POLLIN)
        try:
            while self._open:
                self._step()
        finally:
            self._shut_down()

    def _step(self) -> None:
        self._connection.flush()
        self._choose()
        ready = [number for number, _ in self._poll.poll(self._patience())]
        self._turn += 1
        start = self._turn % len(ready) if ready else 0
        for descriptor in ready[start:] + ready[:start]:
            if descriptor == self._channel:
                self._receive()
            elif descriptor == self._signals.descriptor:
                self._notice_signals()
            elif descriptor in self._polled:
                self._pump(self._polled[descriptor], descriptor)
        # Whoever calls when ours has just hung up is the next, not a second one.
        listener = self._listener
        if listener is not None and listener.descriptor in ready and self._channel not in ready:
            listener.turn_away()
        self._expire()
        self._settle()

    def _choose(self) -> None:
        """Poll what there is room for, and nothing else."""
        self._channel = self._connection.watch(self._poll)
        wanted: dict[int, RunningCall] = {}
        if not self._connection.full:
            for call in self._calls.values():
                if call.readable and not call.drain:
                    wanted.update(dict.fromkeys(call.pipes, call))
        for descriptor in self._polled.keys() - wanted.keys():
            self._poll.unregister(descriptor)
        for descriptor in wanted.keys() - self._polled.keys():
            self._poll.register(descriptor, select.POLLIN)
        self._polled = wanted

    def _patience(self) -> float | None:
        """How long to poll, in milliseconds; None for ever."""
        if not self._calls:
            return None
        calls = self._calls.values()
        if any(call.drain and call.readable for call in calls) and not self._connection.full:
            return 0
        now = time.monotonic()
        until = min(call.deadline for call in calls)
        if any(call.ended and not call.drain for call in calls):
            until = min(until, now + _RETRY_SECONDS)
        return None if until == float("inf") else max(0.0, (until - now) * 1000 + 1)

    def _receive(self) -> None:
        data = self._connection.read()
        if data is None:
            return
        if not data:
            self._open = False
            return
        for kind, stream, payload in self._parser.feed(data):
            self._take(kind, stream, payload)

    def _take(self, kind: Kind, stream: int, payload: bytes) -> None:
        match kind:
            case Kind.CALL:
                self._start(stream, Call.parse(payload))
            case Kind.CANCEL:
                # A stream that is closed already crossed the host's frame on its way.
                if stream in self._calls:
                    self._calls[stream].cancel()
            case Kind.CREDIT:
                if stream in self._calls:
                    self._calls[stream].credit.granted(payload)
            case Kind.WELCOME:
                self._greet(Welcome.parse(payload))
            case Kind.PING:
                if len(payload) > 64:
                    raise ProtocolError(f"a PING of {len(payload)} bytes; 64 at most")
                self._connection.send(Kind.PONG, 0, payload)
            case Kind.GOODBYE:
                self._end()
            case _:
                raise AssertionError(kind)  # the parser lets no other kind through

    def _greet(self, message: Welcome) -> None:
        welcome.apply(message, self._settings.machine)
        self._welcome = message
        self._extensions = None
        if message.extensions:
            # Imported here, what calls need costs each of their processes nothing.
            import inspect  # noqa: F401
            import linecache  # noqa: F401
            import random  # noqa: F401

            from . import signature  # noqa: F401
            from .extensions import Extensions

            self._extensions = Extensions(message.extensions)
        self._connection.send(Kind.READY, 0)

    def _start(self, stream: int, call: Call) -> None:
        if self._welcome is None:
            raise ProtocolError("a CALL before the WELCOME")
        if stream in self._calls:
            raise ProtocolError(f"a CALL on stream {stream}, which is in use")
        settings = self._settings
        try:
            plan = Plan(
                call,
                self._find(call.tool),
                self._extensions,
                environment.build(call.env, settings.workspace, settings.temporary),
                workspace=settings.workspace,
                landlock=settings.landlock,
                machine=settings.machine,
                entropy=self._welcome.entropy,
            )
            self._calls[stream] = RunningCall(stream, plan)
        except Refused as refused:
            result = Result(1, refused.code, refused.message)
            self._connection.send(Kind.RESULT, stream, result.encode())

    def _find(self, name: str) -> Tool | None:
        """A built-in tool, or None for one of the operator's. Raises Refused."""
        try:
            return tools.load(name)
        except KeyError:
            if self._extensions is None and name != DESCRIBE:
                known = ", ".join(tools.NAMES)
                message = f"no tool is named {name[:80]!r}; there are {known}"
                raise Refused(ErrorCode.NOT_FOUND, message) from None
            return None

    def _pump(self, call: RunningCall, descriptor: int) -> None:
        """Send one piece of one pipe, where there is room and credit for it."""
        if descriptor not in call.pipes or not call.readable or self._connection.full:
            return
        kind = call.pipes[descriptor]
        data = call.read(descriptor)
        if data:
            self._connection.send(kind, call.stream, data)
        elif call.drain and descriptor in call.pipes:
            call.close(descriptor)  # what is not there now never comes: no one is left

    def _notice_signals(self) -> None:
        if self._signals.take():
            self._end()
        for call in self._calls.values():
            call.reap()

    def _end(self) -> None:
        self._open = False
        self.told_to_end = True

    def _expire(self) -> None:
        now = time.monotonic()
        for call in self._calls.values():
            if call.deadline <= now:
                call.expire()

    def _settle(self) -> None:
        """Take calls whose main process is gone to their result."""
        ended = [call for call in self._calls.values() if call.ended]
        if any(not call.drain for call in ended):
            now = time.monotonic()
            none_left = processes.end_orphans(self._mains())
            for call in ended:
                call.drain = call.drain or none_left or call.settle_by <= now
        for call in ended:
            if call.drain:
                for descriptor in list(call.pipes):
                    self._pump(call, descriptor)
                if not call.pipes:
                    del self._calls[call.stream]
                    self._connection.send(Kind.RESULT, call.stream, call.result().encode())

    def _mains(self) -> set[int]:
        return {call.pid for call in self._calls.values() if not call.ended}

    def _shut_down(self) -> None:
        for call in self._calls.values():
            call.cancel()
        give_up = time.monotonic() + _SHUT_DOWN_SECONDS
        while time.monotonic() < give_up:
            for call in self._calls.values():
                call.reap()
            if processes.end_orphans(self._mains()) and not self._mains():
                return
            time.sleep(0.002)
