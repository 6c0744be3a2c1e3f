"""`LocalDaemon` for asyncio: one process, one task for each of its outputs."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Self, cast

from .calls import decode_line
from .errors import BadReply, CallError, InvalidRequest, Overloaded
from .local_daemon import (
    EXIT_GRACE_S,
    STDERR_LINES,
    TERMINATE_GRACE_S,
    cannot_start,
    lost,
    unattributed,
)
from .result import ToolResult

MAX_REPLY_BYTES = 448 * 1024 * 1024
"""One reply line: the largest `output_bytes` of a policy, every byte escaped as JSON."""


class AsyncLocalDaemon:
    """One `mas-sandboxd` process, bound to the event loop that started it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stdin = cast(asyncio.StreamWriter, process.stdin)
        self._pending: dict[str, asyncio.Future[ToolResult]] = {}
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._stderr_reader = asyncio.create_task(self._read_stderr())
        self._reply_reader = asyncio.create_task(self._read_replies())

    @classmethod
    async def start(cls, command: Sequence[str]) -> Self:
        """Raises DaemonUnavailable when the program cannot be started."""
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                limit=MAX_REPLY_BYTES,
                start_new_session=True,
            )
        except OSError as exc:
            raise cannot_start(command, exc) from exc
        return cls(process)

    @property
    def ended(self) -> bool:
        """Whether it can take no more calls."""
        return self._reply_reader.done()

    async def call(self, call_id: str, line: bytes, *, last: bool = False) -> ToolResult:
        """Send one request line, wait for its reply. `last`: no more calls will come."""
        if call_id in self._pending:
            raise InvalidRequest(f"a call {call_id!r} is already running; use another id")
        if self.ended:
            raise lost(self._process.returncode, self._last_words, began=False)
        future: asyncio.Future[ToolResult] = asyncio.get_running_loop().create_future()
        self._pending[call_id] = future
        self._stdin.write(line + b"\n")
        if last:
            self._stdin.close()
        else:
            await self._drain()
        return await future

    async def close(self) -> None:
        """End the process, at once where a call is still running, and reap it."""
        busy = bool(self._pending)
        self._stdin.close()
        try:
            if not busy:
                await self._exit_within(EXIT_GRACE_S)
            if self._process.returncode is None:
                self._process.terminate()
                await self._exit_within(TERMINATE_GRACE_S)
        finally:
            if self._process.returncode is None:
                self._process.kill()
        await self._process.wait()
        readers = [self._stderr_reader, self._reply_reader]
        # Bounded: a stray grandchild may hold a pipe's other end open.
        await asyncio.wait(readers, timeout=TERMINATE_GRACE_S)
        for reader in readers:
            reader.cancel()

    async def _exit_within(self, grace_s: float) -> int | None:
        try:
            async with asyncio.timeout(grace_s):
                return await self._process.wait()
        except TimeoutError:
            return None

    async def _drain(self) -> None:
        # When it is dying, the reader of its stdout reports how.
        with suppress(ConnectionError):
            await self._stdin.drain()

    async def _read_replies(self) -> None:
        stdout = cast(asyncio.StreamReader, self._process.stdout)
        failure: CallError | None = None
        try:
            while line := await stdout.readline():
                self._settle(line)
        except (BadReply, ValueError) as exc:
            failure = exc if isinstance(exc, BadReply) else BadReply(str(exc))
            self._process.terminate()
        await asyncio.wait([self._stderr_reader], timeout=TERMINATE_GRACE_S)
        if failure is None:
            failure = lost(await self._exit_within(TERMINATE_GRACE_S), self._last_words)
        for future in self._pending.values():
            if not future.done():
                future.set_exception(type(failure)(failure.message))

    def _settle(self, line: bytes) -> None:
        call_id, outcome = decode_line(line)
        if call_id is None:
            raise unattributed(outcome)
        future = self._pending.pop(call_id, None)
        if future is None or future.done():
            return  # whoever asked has stopped waiting
        if isinstance(outcome, Overloaded):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    async def _read_stderr(self) -> None:
        stderr = cast(asyncio.StreamReader, self._process.stderr)
        while line := await stderr.readline():
            self._last_words.append(line.decode("utf-8", "backslashreplace").rstrip())
