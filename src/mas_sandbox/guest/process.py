"""One process that the host started, from the toolrunner's side."""

from __future__ import annotations

import os
import select
import signal
import time

from mas_sandbox.wire.credit import SendCredit
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import CHUNK
from mas_sandbox.wire.messages import Result

from . import keeper, processes
from .calls import OUT_OF_MEMORY, reported
from .processes import Ended

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .connection import Connection
    from .input import Input
    from .keepers import Kept
    from .machine import Machine
    from .poller import Poller

DRAIN_SECONDS = 0.2
"""How long the pipes of a process that has ended are read while others hold them open."""
_SETTLE_SECONDS = 2.0
"""How long the processes beneath one that was killed may hold up its result."""


class RunningProcess:
    """`outputs`: descriptor -> the kind of frame its data travels in, until end of file;
    `deadline`: the monotonic time at which `expire` has something to do; `keeper`: the
    id of the process above it."""

    def __init__(
        self,
        stream: int,
        kept: Kept,
        timeout_ms: int,
        machine: Machine | None,
        connection: Connection,
        poller: Poller,
    ) -> None:
        self.stream = stream
        self.keeper = kept.pid
        self.line = kept.line
        self.outputs = kept.outputs
        self.input: Input | None = None
        self._foreground: Callable[[int], object] | None = None
        self._terminal = kept.terminal
        self.credit = SendCredit()
        self.started = self.killed = self.draining = False
        self.gone = False
        """Whether nothing is left beneath the keeper, nor the keeper itself."""
        self._connection = connection
        self._poller = poller
        self._machine = machine
        self._oom_kills = 0 if machine is None else machine.oom_kills()
        self._timeout_ms = timeout_ms
        self.deadline = time.monotonic() + timeout_ms / 1000 if timeout_ms else float("inf")
        self._heard = bytearray()
        self._left: dict[int, int] = {}
        self._ended: Ended | None = None
        self._code = self._message = self._reason = ""

    def hear(self) -> list[tuple[int, bytes]]:
        """What the keeper has said since; `gone` where that was its last word."""
        try:
            said = os.read(self.line, 65536)
        except BlockingIOError:
            return []
        except OSError:
            said = b""
        if not said:
            self.gone = True
        heard, found = self._heard, []
        heard += said
        while len(heard) >= keeper.HEADER.size:
            kind, size = keeper.HEADER.unpack_from(heard)
            end = keeper.HEADER.size + size
            if len(heard) < end:
                break
            found.append((kind, bytes(heard[keeper.HEADER.size : end])))
            del heard[:end]
        return found

    def fail(self, report: bytes) -> None:
        self._code, self._message, self._reason = reported(report)

    def end(self, ended: Ended) -> None:
        """Its main process is gone; what it wrote is in the pipes."""
        self._ended = ended
        wait = _SETTLE_SECONDS if self.killed else DRAIN_SECONDS
        self.deadline = time.monotonic() + wait

    def tell(self, command: int) -> bool:
        """Whether the keeper was told; it may be gone, or stopped by what is beneath it."""
        try:
            os.write(self.line, bytes([command]))
        except OSError:
            return False
        return True

    def write(self, data: bytes) -> None:
        """Raises ProtocolError."""
        if self.input is not None:
            self.input.take(data)

    def resize(self, rows: int, columns: int) -> None:
        if self._terminal in self.outputs:
            from .terminal import resize

            resize(self._terminal, rows, columns)
            if self._foreground is not None:
                self._foreground(signal.SIGWINCH)

    def signal_foreground_ourselves(self) -> None:
        """Do what is the terminal's to do, where it does not."""
        self._foreground = lambda number: self.tell(keeper.FOREGROUND + number)
        if self.input is not None:
            self.input.foreground = self._foreground

    def cancel(self) -> None:
        """End it with all that is beneath it, and drop what it has written."""
        self._kill(ErrorCode.INTERRUPTED, "the process was cancelled")
        self.let_go()

    def let_go(self) -> None:
        """Close our ends of its standard streams."""
        for descriptor in list(self.outputs):
            self._close(descriptor)
        if self.input is not None:
            self.input.close()

    def expire(self) -> None:
        """Its deadline has come: the end of its time, or of the wait for what it wrote."""
        self.deadline = float("inf")
        if self._ended is None:
            self._kill(ErrorCode.TIMEOUT, f"ended after {self._timeout_ms} ms; raise timeout_ms")
        else:
            self.draining = True

    @property
    def ended(self) -> bool:
        return self._ended is not None

    @property
    def readable(self) -> bool:
        """Whether to send what it writes: not before its id, and not without credit."""
        return self.credit.available > 0 and (self.started or self._ended is not None)

    def watch(self) -> None:
        """Poll its outputs where what they hold could be sent, and nothing else."""
        wanted = self.readable and not self._connection.full
        for descriptor in self.outputs:
            self._poller.watch(descriptor, select.POLLIN if wanted else 0, self.pump)

    def pump(self, descriptor: int) -> bool:
        """Whether there was a piece to send, and room and credit for it."""
        if not self.readable or self._connection.full:
            return False
        kind = self.outputs[descriptor]
        data = self._read(descriptor)
        if data:
            self._connection.send(kind, self.stream, data)
            if not self.readable:
                self.watch()
        return bool(data)

    def _read(self, descriptor: int) -> bytes | None:
        """The next piece to send, None when there is none to be had now. Lets go of the
        pipe at its end, and once it is `draining` when what was in it has been read."""
        try:
            data = os.read(descriptor, min(CHUNK, self.credit.available))
        except BlockingIOError:
            if self.draining:
                self._close(descriptor)
            return None
        except OSError:
            data = b""  # EIO: nobody has the terminal open any more
        if not data:
            self._close(descriptor)
            return None
        self.credit.spend(len(data))
        if self.draining:
            # A pipe's worth: what came later is not what the process wrote.
            self._left[descriptor] = self._left.get(descriptor, CHUNK) - len(data)
            if self._left[descriptor] <= 0:
                self._close(descriptor)
        return data

    def _close(self, descriptor: int) -> None:
        del self.outputs[descriptor]
        self._poller.close(descriptor)

    @property
    def settled(self) -> bool:
        """Whether there is a result, and nothing left to send before it."""
        if self._ended is None or self.outputs:
            return False
        return not self.killed or self.gone or self.draining

    def result(self) -> Result:
        ended = self._ended
        if ended is None:
            raise AssertionError("the process has not ended")
        machine = self._machine
        short = machine is not None and machine.oom_kills() > self._oom_kills
        if short and ended.exit_code and not self._code:
            self._code, self._message = ErrorCode.OUT_OF_MEMORY, OUT_OF_MEMORY
        return Result(
            ended.exit_code,
            self._code,
            self._message,
            ended.cpu_us,
            ended.max_rss_kb,
            self._reason,
        )

    def _kill(self, code: ErrorCode, message: str) -> None:
        if self.killed:
            return
        self.killed = True
        if not self._code:
            self._code, self._message = code, message
        if not self.gone and not self.tell(keeper.KILL):
            processes.end(self.keeper)  # stopped: its process ends with it, and is an orphan

    def end_without_keeper(self) -> None:
        """Something killed the keeper: its process ended with it."""
        if not self._code:
            self._code = ErrorCode.TOOL_FAILED
            self._message = "something ended the process that was to wait for it, and it with it"
        self.end(Ended(9, 0, 0))
