"""One process of a named sandbox, from its start until nobody asks for it any more."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind

from .bell import Bell
from .events import Event, error_fields, event, gap, output
from .ring import Ring

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

    from ..sandboxes import NamedSandbox

MAX_READERS = 16
_SIGNAL_BASE = 128
_FIRST_OUTPUT_S = 0.01
"""How long the record of a start may wait for it."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to start: `argv`, or `cmd` for a shell. `cwd` and `env`: instead of, and
    beside, what the policy gives; `stdin`: whether it will be written to; the rest as in
    `wire.process.Process`."""

    argv: list[str] = field(default_factory=list)
    cmd: str = ""
    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    user: str = ""
    pty: tuple[int, int] | None = None
    tag: str = ""
    timeout_ms: int = 0
    stdin: bool = True


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended. `exit_code`: None where the sandbox did not live to say."""

    exit_code: int | None
    error: SandboxError | None = None

    @property
    def signal(self) -> int | None:
        """As a shell tells it: a program that itself exits with 128 + N looks the same."""
        code = self.exit_code or 0
        return code - _SIGNAL_BASE if _SIGNAL_BASE < code <= _SIGNAL_BASE + 64 else None

    def fields(self) -> dict[str, object]:
        return {
            "exit_code": self.exit_code,
            "signal": self.signal,
            "error": error_fields(self.error),
        }


class LiveProcess:
    """`wanted`: what was asked for; `share`: how many bytes of its output may be kept, as
    things are now; `ended`: called once."""

    def __init__(
        self,
        named: NamedSandbox,
        stream: LiveStream,
        pid: int,
        cwd: str,
        wanted: Wanted,
        *,
        share: Callable[[], int],
        ended: Callable[[LiveProcess], None],
    ) -> None:
        self.named = named
        self.stream = stream
        self.pid = pid
        self.cwd = cwd
        self.wanted = wanted
        self.started_ms = time.time_ns() // 1_000_000
        self.ended_ms: int | None = None
        self.ending: Ending | None = None
        self.ring = Ring()
        self.bell = Bell()
        self._share = share
        self._ended = ended
        self._readers: set[Reader] = set()
        self._pump: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None

    def begin(self, record: Coroutine[Any, Any, None] | None = None) -> None:
        """Take its output from now on. `record`: what writes down meanwhile that it runs; it
        is ended where that fails."""
        if record is not None:
            self._recording = asyncio.create_task(self._record(record))
            self._recording.add_done_callback(self._recorded)
        self._pump = asyncio.create_task(self._take_output())

    def attach(self, position: int = 0) -> Reader:
        """Read its output from `position` on. Raises SandboxError `overloaded`."""
        if len(self._readers) >= MAX_READERS:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"{MAX_READERS} readers are attached to process {self.pid}; detach one",
            )
        reader = Reader(self, position)
        self._readers.add(reader)
        return reader

    def detach(self, reader: Reader) -> None:
        self._readers.discard(reader)
        self.bell.ring()

    async def wait(self) -> Ending:
        """How it ended, once it has."""
        while self.ending is None:
            await self.bell.wait()
        return self.ending

    def trim(self, capacity: int) -> bool:
        """Keep no more output than this; False where a reader still needs more."""
        floor = self.ring.floor(capacity)
        if any(each.position < floor for each in self._readers):
            return False
        self.ring.trim(capacity)
        return True

    async def _take_output(self) -> None:
        try:
            while (item := await self.stream.read()) is not None:
                kind, data = item
                if kind is not Kind.VALUE:
                    self.ring.append(self._pipe(kind), data)
                    self.bell.ring()
                    await self._make_room()
            result = await self.stream.result
            error = SandboxError(ErrorCode(result.code), result.message) if result.code else None
            ending = Ending(result.exit_code, error)
        except SandboxError as lost:
            ending = Ending(None, lost)
        if self._recording is not None:
            self.bell.ring()
            await asyncio.wait((self._recording,))
        self._end(ending)

    async def _record(self, record: Coroutine[Any, Any, None]) -> None:
        """After its first output, which is waited for, and not beside it."""
        try:
            await asyncio.wait((self.bell.next(),), timeout=_FIRST_OUTPUT_S)
        finally:
            await record

    def _recorded(self, recording: asyncio.Task[None]) -> None:
        if recording.cancelled() or recording.exception() is not None:
            self.stream.cancel()

    def _pipe(self, kind: Kind) -> str:
        if self.wanted.pty:
            return "pty"
        return "stderr" if kind is Kind.STDERR else "stdout"

    async def _make_room(self) -> None:
        """Whoever is attached is waited for, which holds the process up."""
        while not self.trim(self._share()) and not self.stream.result.done():
            await self._held_up()  # once it has ended, its credit bounds what still comes

    async def _held_up(self) -> None:
        """Until a reader has moved, or there is no process to hold up."""
        # Not a task of its own, which would begin to listen after a reader has moved.
        moved = self.bell.next()
        await asyncio.wait((moved, self.stream.result), return_when=asyncio.FIRST_COMPLETED)

    def _end(self, ending: Ending) -> None:
        self.ending = ending
        self.ended_ms = time.time_ns() // 1_000_000
        self._ended(self)
        self.bell.ring()


class Reader:
    """One place in a process's output. While it is attached, and only then, what it has not
    read yet is kept for it and the process waits."""

    def __init__(self, process: LiveProcess, position: int) -> None:
        self.process = process
        self.position = min(position, process.ring.end)
        self._told: list[Event] = [_start(process)]
        self._over = False

    async def next(self) -> Event | None:
        """What happens next; None after the exit. Cancelling it loses nothing."""
        process, ring = self.process, self.process.ring
        while True:
            if self._told:
                return self._told.pop()
            if self.position < ring.start:
                dropped, self.position = ring.start - self.position, ring.start
                return gap(dropped, self.position)
            if self.position < ring.end:
                kind, data = ring.after(self.position)
                offset, self.position = self.position, self.position + len(data)
                process.bell.ring()
                return output(kind, offset, data)
            if self._over:
                return None
            if process.ending is not None:
                self._over = True
                return event("exit", process.ending.fields())
            await process.bell.wait()

    def close(self) -> None:
        """Detach. Safe to call twice."""
        self.process.detach(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _start(process: LiveProcess) -> Event:
    return event("start", {"pid": process.pid, "tag": process.wanted.tag})
