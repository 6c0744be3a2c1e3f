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
from mas_sandbox.wire.frames import FROM_HOST, GUEST_STREAM, FrameParser, Kind, ProtocolError
from mas_sandbox.wire.messages import PROTOCOL, Call, Hello, Result, Welcome
from mas_sandbox.wire.process import Process

from . import environment, processes, tools, welcome
from .calls import RunningCall
from .child import DESCRIBE, Plan
from .launcher import Launcher
from .poller import Poller
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from .connection import Connection
    from .extensions import Extensions
    from .keepers import Keepers
    from .listener import Listener
    from .machine import Machine
    from .relays import Relays
    from .shares import Shares
    from .signals import Signals
    from .started import StartedProcesses
    from .tools import Tool

_RETRY_SECONDS = 0.01
_IDLE_SECONDS = 0.004
"""Who has had nothing to do for so long does something ahead."""
_SHUT_DOWN_SECONDS = 2.0


class Settings:
    """`workspace`: the real directory behind `/workspace`; `temporary`: a call's TMPDIR;
    `landlock`: the ABI version to restrict calls with, 0 for none; `machine`: what is ours
    to set and to limit where the kernel is, else None; `proxy`: the listening socket whose
    connections are relayed to the host, where there is one; `mounts`: where host
    directories are, once a WELCOME has said so."""

    __slots__ = ("landlock", "machine", "mounts", "proxy", "proxy_port", "temporary", "workspace")

    def __init__(
        self,
        workspace: str,
        *,
        temporary: str,
        landlock: int = 0,
        machine: Machine | None = None,
        proxy: _socket.socket | None = None,
    ) -> None:
        self.workspace = workspace
        self.temporary = temporary
        self.landlock = landlock
        self.machine = machine
        self.proxy = proxy
        self.mounts: list[str] = []
        self.proxy_port: int = 0 if proxy is None else proxy.getsockname()[1]

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
        self._parser = FrameParser(FROM_HOST)
        self._poller = Poller()
        self._calls: dict[int, RunningCall] = {}
        self._welcome: Welcome | None = None
        self._extensions: Extensions | None = None
        self._launcher = Launcher(settings)
        self._preparing: Launcher | Keepers = self._launcher
        self._started: StartedProcesses | None = None
        self._relays: Relays | None = None
        self._shares: Shares | None = None
        self._open = True
        self._turn = 0

    def run(self) -> None:
        """Serve until the channel ends, and leave no process behind.

        Raises ProtocolError where the host breaks the protocol, Unenforceable where it
        asks for a limit that this machine cannot hold.
        """
        if self._settings.machine is not None:
            self._launcher.prepare(wait=True)  # it is cloned with the rest
        python = sys.version.partition(" ")[0]
        hello = Hello(PROTOCOL, os.getpid(), python, tools.NAMES, self._settings.controls)
        self._connection.send(Kind.HELLO, 0, hello.encode())
        self._poller.watch(self._signals.descriptor, select.POLLIN, self._notice_signals)
        if self._listener is not None:
            self._poller.watch(self._listener.descriptor, select.POLLIN, self._turn_away)
        if self._settings.proxy is not None:
            self._poller.watch(self._settings.proxy.fileno(), select.POLLIN, self._relay_first)
        try:
            while self._open:
                self._step()
        finally:
            self._shut_down()
            if self._relays is not None:
                self._relays.close()
            if self._shares is not None:
                self._shares.close()

    def _step(self) -> None:
        self._connection.flush()
        self._expire()
        self._settle()  # now: what floods write below may leave no room for a result
        self._connection.flush()
        self._choose()
        ready = self._poller.wait(self._patience())
        if not ready and self._idle:
            self._preparing.prepare()
        self._turn += 1
        start = self._turn % len(ready) if ready else 0
        self._poller.serve(ready[start:] + ready[:start])

    def _choose(self) -> None:
        """Poll what there is room for, and nothing else."""
        self._connection.watch(self._poller, self._receive)
        for call in self._calls.values():
            call.watch()
        if self._started is not None:
            self._started.choose()
        if self._relays is not None:
            self._relays.choose()
        if self._shares is not None:
            self._shares.choose()

    @property
    def _idle(self) -> bool:
        """Whether nothing runs, in the background neither."""
        return not self._calls and (self._started is None or self._started.empty)

    def _patience(self) -> float | None:
        """How long to poll, in milliseconds; None for ever."""
        calls = self._calls.values()
        if any(call.drain and call.readable for call in calls) and not self._connection.full:
            return 0
        now = time.monotonic()
        until = min((call.deadline for call in calls), default=float("inf"))
        untidy = any(call.ended and not call.drain for call in calls)
        if self._started is not None:
            until = min(until, self._started.deadline())
            untidy |= self._started.untidy
        if untidy:
            until = min(until, now + _RETRY_SECONDS)
        if self._idle and not self._preparing.ready:
            until = min(until, now + _IDLE_SECONDS)
        return None if until == float("inf") else max(0.0, (until - now) * 1000 + 1)

    def _turn_away(self, _listening: int) -> None:
        """Somebody calls: who does when ours has just hung up is the next, not a second one."""
        self._receive()
        if self._open and self._listener is not None:
            self._listener.turn_away()

    def _receive(self, _channel: int = -1) -> None:
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
            case Kind.START:
                self._start_process(stream, Process.parse(payload))
            case Kind.CANCEL | Kind.CREDIT | Kind.STDIN | Kind.SIGNAL | Kind.RESIZE:
                if stream in self._calls:
                    self._tell(self._calls[stream], kind, payload)
                elif self._started is not None and stream in self._started.streams:
                    self._started.receive(kind, stream, payload)
                elif kind is Kind.CREDIT and stream >= GUEST_STREAM:
                    self._relay(kind, stream, payload)
                # A stream that is closed already crossed the host's frame on its way.
            case Kind.DATA | Kind.RESET:
                self._relay(kind, stream, payload)
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

    def _tell(self, call: RunningCall, kind: Kind, payload: bytes) -> None:
        if kind is Kind.CANCEL:
            call.cancel()
        elif kind is Kind.CREDIT:
            call.credit.granted(payload)
        elif kind is Kind.STDIN and call.input is not None:
            call.input.take(payload)
        else:
            raise ProtocolError(f"a {kind.name} frame for a call that does not take it")

    def _relay(self, kind: Kind, stream: int, payload: bytes) -> None:
        if self._shares is not None and stream >= self._shares.FIRST_STREAM:
            self._shares.receive(kind, stream, payload)
            return
        if self._relays is None:
            raise ProtocolError(f"a {kind.name} frame on stream {stream}, which was never opened")
        self._relays.receive(kind, stream, payload)

    def _greet(self, message: Welcome) -> None:
        welcome.apply(message, self._settings.machine)
        self._welcome = message
        self._settings.mounts = [path for path, _ in message.mounts]
        self._extensions = None
        if message.extensions:
            # Imported here, what calls need costs each of their processes nothing.
            import inspect  # noqa: F401
            import linecache  # noqa: F401
            import random  # noqa: F401

            from . import signature  # noqa: F401
            from .extensions import Extensions

            self._extensions = Extensions(message.extensions)
        if self._settings.machine is not None and message.mounts and self._shares is None:
            from .shares import Shares

            self._shares = Shares(self._connection, self._poller, message.mounts)
        else:
            self._connection.send(Kind.READY, 0)

    def _start(self, stream: int, call: Call) -> None:
        self._check_free(stream, Kind.CALL)
        if self._started is not None:
            self._started.untidy |= self._started.keepers.discard()
        self._preparing = self._launcher
        try:
            plan = self._plan(call, self._find(call.tool))
            self._calls[stream] = RunningCall(
                stream, plan, self._launcher, self._connection, self._poller
            )
        except Refused as refused:
            self._refuse(stream, refused)

    def _start_process(self, stream: int, process: Process) -> None:
        self._check_free(stream, Kind.START)
        if self._started is None:
            from .started import StartedProcesses  # many a sandbox is never asked for one

            self._started = StartedProcesses(self._connection, self._poller, self._settings)
        # What waits to be something else is out of everybody's reach.
        self._started.untidy |= self._launcher.discard()
        self._preparing = self._started.keepers
        try:
            call = Call(
                "", {}, env=process.env, cwd=process.cwd, paths=process.paths, nofile=process.nofile
            )
            plan = self._plan(call, None, terminal=process.pty is not None)
            self._started.start(stream, process, plan)
        except Refused as refused:
            self._refuse(stream, refused)

    def _plan(self, call: Call, tool: Tool | None, *, terminal: bool = False) -> Plan:
        """Raises Refused."""
        settings, greeted = self._settings, self._welcome
        workspace, temporary = settings.workspace, settings.temporary
        return Plan(
            call,
            tool,
            self._extensions,
            environment.build(
                call.env, workspace, temporary, settings.proxy_port, terminal=terminal
            ),
            workspace=workspace,
            landlock=settings.landlock,
            machine=settings.machine,
            entropy="" if greeted is None else greeted.entropy,
            mounts=settings.mounts,
        )

    def _check_free(self, stream: int, kind: Kind) -> None:
        if self._welcome is None:
            raise ProtocolError(f"a {kind.name} before the WELCOME")
        in_use = stream in self._calls
        if self._started is not None:
            in_use |= stream in self._started.streams
        if in_use or stream >= GUEST_STREAM:
            raise ProtocolError(
                f"a {kind.name} on stream {stream}, which is in use or not the host's"
            )

    def _refuse(self, stream: int, refused: Refused) -> None:
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

    def _relay_first(self, listening: int) -> None:
        """Somebody has connected to the proxy for the first time."""
        from .relays import Relays  # most sandboxes never connect to anything

        proxy = self._settings.proxy
        if proxy is None:
            raise AssertionError("no proxy is polled")
        self._relays = Relays(self._connection, self._poller, proxy)
        self._relays.accept(listening)

    def _notice_signals(self, _descriptor: int) -> None:
        if self._signals.take():
            self._end()
        for call in self._calls.values():
            call.reap()
        if self._started is not None:
            self._started.note_child()

    def _end(self) -> None:
        self._open = False
        self.told_to_end = True

    def _expire(self) -> None:
        now = time.monotonic()
        for call in self._calls.values():
            if call.deadline <= now:
                call.expire()

    def _settle(self) -> None:
        """Take calls whose main process is gone to their result, and processes too."""
        started = self._started
        if started is not None:
            started.settle()
        ended = [call for call in self._calls.values() if call.ended]
        if any(not call.drain for call in ended) or (started is not None and started.untidy):
            now = time.monotonic()
            none_left = self._end_orphans()
            for call in ended:
                call.drain = call.drain or none_left or call.settle_by <= now
        for call in ended:
            if call.drain:
                for descriptor in list(call.pipes):
                    call.pump(descriptor)
                if not call.pipes:
                    del self._calls[call.stream]
                    if call.input is not None:
                        call.input.close()
                    self._connection.send(Kind.RESULT, call.stream, call.result().encode())

    def _end_orphans(self) -> bool:
        """Whether none was left."""
        none_left = processes.end_orphans(_Spared(self._mains(), self._started))
        if self._started is not None:
            none_left &= self._started.reap()
            self._started.untidy = not none_left
        return none_left

    def _mains(self) -> set[int]:
        running = {call.pid for call in self._calls.values() if not call.ended}
        return running | self._launcher.waiting

    def _shut_down(self) -> None:
        self._launcher.discard()
        for call in self._calls.values():
            call.cancel()
            if call.input is not None:
                call.input.close()
        if self._started is not None:
            self._started.close()
        give_up = time.monotonic() + _SHUT_DOWN_SECONDS
        while time.monotonic() < give_up:
            for call in self._calls.values():
                call.reap()
            if self._end_orphans() and not self._mains():
                return
            time.sleep(0.002)


class _Spared:
    """The toolrunner's children that are no orphans."""

    def __init__(self, mains: set[int], started: StartedProcesses | None) -> None:
        self._mains = mains
        self._started = started

    def __contains__(self, pid: object) -> bool:
        if pid in self._mains:
            return True
        return isinstance(pid, int) and self._started is not None and self._started.keeps(pid)
