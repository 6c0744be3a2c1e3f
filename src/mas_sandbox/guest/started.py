"""Every process that the host of this connection started, and what they left running."""

from __future__ import annotations

import os
import resource
import select
import signal
import time

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import Kind, ProtocolError
from mas_sandbox.wire.process import SIZE

from . import keeper
from .adoption import Adoption
from .input import Input
from .keepers import Keepers
from .process import RunningProcess
from .processes import Ended
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mas_sandbox.wire.process import Process

    from .child import Plan
    from .connection import Connection
    from .loop import Settings
    from .machine import Machine
    from .poller import Poller

MAX_PROCESSES = 256
"""At once, also counting those of which only something in the background is left."""
_DESCRIPTORS = 4096
"""What the toolrunner needs for so many, where it may have them."""


class StartedProcesses:
    """The streams of one connection that START opened, among the rest that its loop polls.

    `streams`: those without a RESULT yet; `untidy`: whether somebody has to be reaped
    still, or ended.
    """

    def __init__(self, connection: Connection, poller: Poller, settings: Settings) -> None:
        self.streams: dict[int, RunningProcess] = {}
        self.untidy = False
        self.keepers = Keepers(settings)
        self._connection = connection
        self._poller = poller
        self._lines: dict[int, RunningProcess] = {}
        self._leaving: set[int] = set()
        self._adoption = Adoption()
        self._changed: set[RunningProcess] = set()
        self._full = False
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))

    @property
    def empty(self) -> bool:
        """Whether nothing runs, in the background neither."""
        return not self._lines and self._adoption.empty

    def note_child(self) -> None:
        """A child of the toolrunner may have ended."""
        self.untidy |= not self._adoption.empty

    def keeps(self, pid: int) -> bool:
        """Whether a child of the toolrunner is a keeper, or stays though it has none."""
        return pid in self.keepers.pids or self._adoption.keeps(pid)

    def start(self, stream: int, process: Process, plan: Plan) -> None:
        """Raises Refused."""
        _check_user(process.user, plan.machine)
        if len(self._lines) >= MAX_PROCESSES:
            raise Refused(
                ErrorCode.TOOL_FAILED,
                f"{MAX_PROCESSES} processes run in this sandbox, or have left something running;"
                " end others first",
            )
        kept = self.keepers.start(plan, process)
        running = RunningProcess(
            stream, kept, process.timeout_ms, plan.machine, self._connection, self._poller
        )
        kind = Input
        if kept.terminal >= 0:
            from .terminal import TerminalInput

            kind = TerminalInput
        running.input = kind(kept.input_end, stream, self._connection, self._poller)
        self.streams[stream] = self._lines[kept.line] = running
        self._poller.watch(kept.line, select.POLLIN, self._hear)

    def receive(self, kind: Kind, stream: int, payload: bytes) -> None:
        """A frame for one of `streams`. Raises ProtocolError."""
        running = self.streams[stream]
        self._changed.add(running)
        match kind:
            case Kind.STDIN:
                running.write(payload)
            case Kind.CREDIT:
                running.credit.granted(payload)
            case Kind.CANCEL:
                running.cancel()
                self._end_adopted(running)
            case Kind.SIGNAL:
                if len(payload) != 1 or not 0 < payload[0] < signal.NSIG:
                    raise ProtocolError("a SIGNAL that is none")
                running.tell(payload[0])
            case Kind.RESIZE:
                if len(payload) != SIZE.size:
                    raise ProtocolError("a RESIZE that is no size")
                running.resize(*SIZE.unpack(payload))
            case _:
                raise AssertionError(kind)

    def choose(self) -> None:
        """Poll what there is room for, and nothing else."""
        full = self._connection.full
        if full != self._full:
            self._full = full
            self._changed.update(self.streams.values())
        for running in self._changed:
            running.watch()
        self._changed.clear()

    def deadline(self) -> float:
        return min((each.deadline for each in self.streams.values()), default=float("inf"))

    def settle(self) -> None:
        """Do what the time asks for, and tell the results that there are."""
        now = time.monotonic()
        for running in list(self.streams.values()):
            if running.deadline <= now:
                running.expire()
                self._changed.add(running)
                if running.killed:
                    self._end_adopted(running)
            if running.draining:
                for descriptor in list(running.outputs):
                    while descriptor in running.outputs and running.pump(descriptor):
                        pass  # a pipe's worth at most
            if running.settled:
                self._finish(running)

    def reap(self) -> bool:
        """Reap what has ended; whether no keeper is left that is about to."""
        self._adoption.reap()
        for pid in list(self._leaving):
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            except ChildProcessError:
                pass  # it was reaped among the orphans
            self._leaving.discard(pid)
        return not self._leaving

    def close(self) -> None:
        """Let all of them be orphans, to be ended as such; with its line, each keeper ends
        what is beneath it by itself."""
        for running in self.streams.values():
            running.let_go()
        for line in self._lines:
            self._poller.close(line)
        self.keepers.discard()
        self._leaving |= self.keepers.pids
        self.keepers.pids.clear()
        self._adoption = Adoption()
        self.streams.clear()
        self._lines.clear()
        self._changed.clear()

    def _hear(self, line: int) -> None:
        running = self._lines[line]
        self._changed.add(running)
        for kind, payload in running.hear():
            if kind == keeper.STARTED:
                running.started = True
                if not keeper.START.unpack(payload)[1]:
                    self._adoption.add(running.keeper)
                    running.signal_foreground_ourselves()
                self._connection.send(Kind.STARTED, running.stream, payload[:4])
            elif kind == keeper.FAILED:
                running.fail(payload)
            elif kind == keeper.ENDED:
                running.end(Ended(*keeper.END.unpack(payload)))
        if running.gone:
            self._part_with(running)

    def _part_with(self, running: RunningProcess) -> None:
        """Its keeper is gone, and whatever was beneath it."""
        if not running.ended:
            running.end_without_keeper()
            self._end_adopted(running)
        del self._lines[running.line]
        self._poller.close(running.line)
        self.keepers.pids.discard(running.keeper)
        self._leaving.add(running.keeper)
        self.untidy = True

    def _end_adopted(self, running: RunningProcess) -> None:
        self._adoption.drop(running.keeper)
        self.untidy = True

    def _finish(self, running: RunningProcess) -> None:
        del self.streams[running.stream]
        self._changed.discard(running)
        running.let_go()
        self._connection.send(Kind.RESULT, running.stream, running.result().encode())
        if not running.gone:
            running.tell(keeper.DROP)


def _check_user(name: str, machine: Machine | None) -> None:
    """Raises Refused for another user than the one that calls run as."""
    if not name:
        return
    import pwd

    user = os.geteuid() if machine is None else machine.USER
    try:
        own = pwd.getpwuid(user).pw_name
    except KeyError:
        own = str(user)
    if name != own:
        message = f"processes run as {own!r} here, not as {name[:80]!r}; leave user empty"
        raise Refused(ErrorCode.INVALID_REQUEST, message)
