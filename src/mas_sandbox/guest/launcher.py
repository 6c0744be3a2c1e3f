"""The processes that calls run in: how one is started, and how one is kept ready.

Forking the toolrunner, and leaving behind what is the toolrunner's, depends on nothing
that a call says. So while nothing runs, one process is forked and prepared ahead, to
wait for the call that it will be. The next call takes it, or it is ended: a process that
waits and one that is a call's are never there together, so none can reach the other.
"""

from __future__ import annotations

import os
import sys
import time

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import FROM_HOST, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Call, Result

from . import environment, processes, tools
from .child import become_call, become_spare, plan_of
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from .child import Plan
    from .loop import Settings

    Pipes = tuple[list[int], list[int]]
    """The ends to read from, and those to write to."""

_CALCULATOR = f"{tools.__name__}.calculator"
_REHEARSAL = Call("calculator", {"expression": "1 + 1"})
MAX_MESSAGE = 32 * 1024
"""Bytes of a call that a pipe takes at once, whatever its reader does (pipe(7): 64 KiB)."""


class Started:
    """A call's process. `reading`: our ends of its pipes, which never wait, in the order of
    `child.Ends`; `input_end`: where its standard input is written to, -1 where it has none;
    `cpu_us`: what it had used before it was the call's."""

    __slots__ = ("cpu_us", "input_end", "pid", "reading")

    def __init__(
        self, pid: int, reading: list[int], *, input_end: int = -1, cpu_us: int = 0
    ) -> None:
        for descriptor in reading:
            os.set_blocking(descriptor, False)
        self.pid = pid
        self.reading = reading
        self.input_end = input_end
        self.cpu_us = cpu_us


class _Spare:
    """A process that waits at the other end of `line`. `modules`: how many were imported
    when it was forked: what came later it would have to import by itself."""

    __slots__ = ("line", "modules", "pid", "reading")

    def __init__(self, pid: int, reading: list[int], line: int) -> None:
        self.pid = pid
        self.reading = reading
        self.line = line
        self.modules = len(sys.modules)


class Launcher:
    """Starts the processes of one toolrunner's calls."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._spare: _Spare | None = None
        self._used = False

    @property
    def ready(self) -> bool:
        """Whether there is nothing to prepare, or nobody yet to prepare it for."""
        wanted = self._used or self._settings.machine is not None
        return self._spare is not None or not wanted or sys.platform != "linux"

    @property
    def waiting(self) -> set[int]:
        """The processes that are no call's yet."""
        return set() if self._spare is None else {self._spare.pid}

    def prepare(self, wait: bool = False) -> None:
        """Have a process ready, and `wait` until it is. Where none can be had, the next
        call says so."""
        if self.ready:
            return
        # A tool that is not imported yet would be imported by every such process.
        rehearsal = _REHEARSAL if _CALCULATOR in sys.modules else None
        try:
            self._spare = self._fork_spare(rehearsal, wait)
        except OSError:
            return
        if rehearsal is not None:
            self._rehearse(rehearsal)

    def discard(self) -> bool:
        """End the process that waits; whether there was one."""
        spare, self._spare = self._spare, None
        if spare is None:
            return False
        _close_all([spare.line, *spare.reading])
        processes.end(spare.pid)
        return True

    def start(self, plan: Plan) -> Started:
        """Raises Refused when there is no process or descriptor to be had."""
        self._used = True
        started = self._take(plan)
        if started is not None:
            return started
        self.discard()
        try:
            return _start(plan)
        except OSError as error:
            message = (
                f"no process could be started for the call: {error.strerror}; end others first"
            )
            raise Refused(ErrorCode.TOOL_FAILED, message) from error

    def _rehearse(self, call: Call) -> None:
        """Do what comes before `start`: the pages of memory that this writes to, shared with
        the fork until then, are our own again now, and not when a call waits for it."""
        settings = self._settings
        for _, _, payload in FrameParser(FROM_HOST).feed(encode(Kind.CALL, 1, call.encode())):
            built = environment.build({}, settings.workspace, settings.temporary)
            plan_of(Call.parse(payload), settings, built).told()
        Result(0).encode()

    def _take(self, plan: Plan) -> Started | None:
        """The process that waits, told its call; None where it cannot be that one's."""
        spare = self._spare
        if spare is None or plan.tool is None or spare.modules != len(sys.modules):
            return None
        if plan.tool.reads_input:
            return None  # what waits has nothing to read from
        message = plan.told()
        if len(message) > MAX_MESSAGE:
            return None
        used = _processor_us(spare.pid)
        try:
            os.write(spare.line, message)
        except OSError:
            return None  # it is gone
        self._spare = None
        os.close(spare.line)
        return Started(spare.pid, spare.reading, cpu_us=used)

    def _fork_spare(self, rehearsal: Call | None, wait: bool) -> _Spare:
        toolrunner = os.getpid()
        pipes = _pipes(6)
        pid = _fork(pipes)
        (*reading, rehearsed, told), (*ends, rehearsing, line) = pipes
        if pid == 0:
            become_spare(told, rehearsing, rehearsal, ends, self._settings, toolrunner)
        _close_all([*ends, rehearsing, told])
        if wait:
            os.read(rehearsed, 1)
        os.close(rehearsed)
        return _Spare(pid, reading, line)


def _start(plan: Plan) -> Started:
    toolrunner = os.getpid()
    reads_input = plan.tool is not None and plan.tool.reads_input
    pipes = _pipes(5 if reads_input else 4)
    pid = _fork(pipes)
    reading, ends = pipes
    input_end = -1
    if reads_input:
        input_end, theirs = ends.pop(), reading.pop()
        ends.append(theirs)
    if pid == 0:
        become_call(plan, ends, toolrunner)
    _close_all(ends)
    return Started(pid, reading, input_end=input_end)


def _fork(pipes: Pipes) -> int:
    try:
        return os.fork()
    except OSError:
        for each in pipes:
            _close_all(each)
        raise


def _pipes(count: int) -> Pipes:
    reading: list[int] = []
    writing: list[int] = []
    try:
        for _ in range(count):
            ours, theirs = os.pipe()
            reading.append(ours)
            writing.append(theirs)
    except OSError:
        _close_all(reading + writing)
        raise
    return reading, writing


def _processor_us(pid: int) -> int:
    """What a process has used, by the clock that clock_getcpuclockid(3) makes of its id."""
    try:
        return time.clock_gettime_ns(~pid << 3 | 2) // 1000
    except OSError:
        return 0  # a kernel without such clocks: its preparation is then the call's to answer for


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
