"""One running call: its process, its pipes, its limits, and how it ended."""

from __future__ import annotations

import os
import select
import time

from mas_sandbox.wire.credit import SendCredit
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import CHUNK, Kind
from mas_sandbox.wire.messages import FILE_REASONS, GUEST_CODES, Result

from . import processes
from .child import REPORT_BYTES
from .input import Input

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .child import Plan
    from .connection import Connection
    from .launcher import Launcher
    from .poller import Poller
    from .processes import Ended

_SETTLE_SECONDS = 2.0
"""How long a dead call's remaining processes may hold up its result."""
_LOOK_SECONDS = 0.05
"""How often the processor time of a call with a limit is looked at."""
OUT_OF_MEMORY = (
    "ended at the memory limit; files under /workspace, /tmp and /dev/shm count too. "
    "Raise mem_mb or use less"
)


class RunningCall:
    """`pipes`: descriptor -> the kind of frame its data travels in, until end of file.

    `settle_by`: set when the main process is gone, the monotonic time until which what
    it left behind is waited for; `drain`: that is over, only what the pipes still
    hold is left to be sent.
    """

    def __init__(
        self, stream: int, plan: Plan, launcher: Launcher, connection: Connection, poller: Poller
    ) -> None:
        """Start its process. Raises Refused when there is no process or descriptor to be had."""
        call = plan.call
        self.stream = stream
        self._connection = connection
        self._poller = poller
        self.credit = SendCredit()
        self.drain = False
        self.settle_by = 0.0
        self._timeout_ms = call.timeout_ms
        self._output_bytes = self._output_left = call.output_bytes
        self._returns_value = plan.tool is None or plan.tool.program is None
        self._has_value = False
        self._ended: Ended | None = None
        self._code = self._message = self._reason = ""
        self._machine = plan.machine
        self._oom_kills = self._count_oom_kills()
        started = launcher.start(plan)
        self.pid = started.pid
        self.input: Input | None = None
        if started.input_end >= 0:
            self.input = Input(started.input_end, stream, connection, poller)
        stdout, stderr, value, self._report = started.reading
        self.pipes = {stdout: Kind.STDOUT, stderr: Kind.STDERR, value: Kind.VALUE}
        self._used_before_us = started.cpu_us
        self._cpu_ms = call.cpu_ms
        self._time_out = (
            time.monotonic() + call.timeout_ms / 1000 if call.timeout_ms else float("inf")
        )
        self.deadline = self._next_look() if call.cpu_ms else self._time_out

    def kill(self, code: ErrorCode, message: str) -> None:
        """End the call's processes. The first reason is the one that is told."""
        if not self._code:
            self._code, self._message = code, message
        if self._ended is None:
            processes.kill(self.pid)

    def cancel(self) -> None:
        """End the call, and drop what it has written."""
        self.kill(ErrorCode.INTERRUPTED, "the call was cancelled")
        self._drop_output()

    def expire(self) -> None:
        """Its deadline has come: the end of its time, or a look at what it has used."""
        from . import processor_time  # most calls have no limit of it

        message = ""
        if self._time_out <= time.monotonic():
            message = f"ended after {self._timeout_ms} ms; raise timeout_ms"
        elif processor_time.tree_ms(self.pid) - self._used_before_us // 1000 > self._cpu_ms:
            message = f"ended after {self._cpu_ms} ms of processor time; raise cpu_ms"
        if self._ended is None and not message:
            self.deadline = self._next_look()
            return
        self.deadline = float("inf")
        if self._ended is None:
            self.kill(ErrorCode.TIMEOUT, f"{message} or do less in one call")

    def _next_look(self) -> float:
        return min(self._time_out, time.monotonic() + _LOOK_SECONDS)

    def reap(self) -> bool:
        """Whether the main process has ended, now or before."""
        if self._ended is None:
            self._ended = processes.reap(self.pid)
            if self._ended is not None:
                self.settle_by = time.monotonic() + _SETTLE_SECONDS
        return self._ended is not None

    @property
    def ended(self) -> bool:
        return self._ended is not None

    @property
    def readable(self) -> bool:
        """Whether there is credit to send with, or the output limit left to be noticed."""
        return self.credit.available > 0 or self._output_left == 0

    def watch(self) -> None:
        """Poll its pipes where what they hold could be sent, and nothing else."""
        wanted = self.readable and not self.drain and not self._connection.full
        for descriptor in self.pipes:
            self._poller.watch(descriptor, select.POLLIN if wanted else 0, self.pump)

    def pump(self, descriptor: int) -> None:
        """Send one piece of one pipe, where there is room and credit for it."""
        if descriptor not in self.pipes or not self.readable or self._connection.full:
            return
        kind = self.pipes[descriptor]
        data = self._read(descriptor)
        if data:
            self._connection.send(kind, self.stream, data)
        elif self.drain and descriptor in self.pipes:
            self._close(descriptor)  # what is not there now never comes: no one is left

    def _read(self, descriptor: int) -> bytes | None:
        """The next piece to send, None when there is none to be had now.

        Closes the pipe at its end. Ends the call at its output limit, after exactly
        as many bytes as it may write.
        """
        size = min(CHUNK, self.credit.available, self._output_left) or 1
        try:
            data = os.read(descriptor, size)
        except BlockingIOError:
            return None
        if not data:
            self._close(descriptor)
            return None
        if self._output_left == 0:
            self._end_at_output_limit()
            return None
        self._output_left -= len(data)
        self.credit.spend(len(data))
        if self.pipes[descriptor] is Kind.VALUE:
            self._has_value = True
        return data

    def _close(self, descriptor: int) -> None:
        del self.pipes[descriptor]
        self._poller.close(descriptor)

    def result(self) -> Result:
        """How it ended; to be asked once, when no pipe is left."""
        ended = self._ended
        if ended is None:
            raise AssertionError("the call has not ended")
        if not self._code and ended.exit_code and self._count_oom_kills() > self._oom_kills:
            self._code, self._message = ErrorCode.OUT_OF_MEMORY, OUT_OF_MEMORY
        if not self._code:
            self._code, self._message, self._reason = read_report(self._report)
        os.close(self._report)
        if not self._code and self._returns_value and not (self._has_value and not ended.exit_code):
            self._code = ErrorCode.TOOL_FAILED
            self._message = (
                f"the tool was ended by signal {ended.killed_by} before it returned a value"
                if ended.killed_by
                else f"the tool exited with {ended.exit_code} before it returned a value"
            )
        cpu_us = max(0, ended.cpu_us - self._used_before_us)
        return Result(
            ended.exit_code, self._code, self._message, cpu_us, ended.max_rss_kb, self._reason
        )

    def _count_oom_kills(self) -> int:
        return 0 if self._machine is None else self._machine.oom_kills()

    def _end_at_output_limit(self) -> None:
        self.kill(
            ErrorCode.OUTPUT_LIMIT,
            f"ended at {self._output_bytes} bytes of output; raise output_bytes or print less",
        )
        self._drop_output()

    def _drop_output(self) -> None:
        for descriptor in list(self.pipes):
            self._close(descriptor)


def read_report(descriptor: int) -> tuple[str, str, str]:
    """Code, message and reason that a child told of its failure, empty where it told none."""
    try:
        line = os.read(descriptor, REPORT_BYTES)
    except BlockingIOError:
        return "", "", ""
    return reported(line) if line else ("", "", "")


def reported(line: bytes) -> tuple[str, str, str]:
    """What a child said of its failure. It may be a lie, so it is only text here."""
    head, _, message = line.decode("utf-8", "replace").partition("\n")
    code, _, reason = head.partition(" ")
    if code not in GUEST_CODES or reason not in FILE_REASONS:
        told = "the tool's process reported its failure in no known form"
        return ErrorCode.TOOL_FAILED, told, ""
    return code, message, reason
