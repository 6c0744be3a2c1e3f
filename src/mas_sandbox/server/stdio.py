"""The front door on standard input and output: one JSON document a line.

In:  {"id": ..., "tool": "name", "args": {...}, "policy": {...}, "sandbox_id": "...",
      "trace": {"run_id": "...", "step_id": "..."}, "idempotency_key": "..."}
Out: {"id": ..., "result": ..., "error": null or {"code", "message"}, "exit_code",
      "duration": seconds, "stderr", "isolation", "enforced", "usage", "status", ...}

Many calls run at once and answers come as they are ready. Nothing but answers is
ever written to standard output.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import stat
import threading
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .calls import NO_PROGRAM, Caller, ToolReply, ToolRequest

if TYPE_CHECKING:
    from mas_sandbox.policy.model import Policy

    from .broker import Broker

log = logging.getLogger(__name__)

MAX_LINE = strict_json.MAX_BYTES
MAX_PENDING = 4096
"""Lines taken in and not answered yet; beyond, standard input is left unread."""
_READ = 256 * 1024
_FIELDS = frozenset({"id", "tool", "args", "policy", "sandbox_id", "trace", "idempotency_key"})


class LineSplitter:
    """Cuts a byte stream into lines, holding at most `MAX_LINE` bytes of one."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes; None for each that was too long."""
        lines: list[bytes | None] = []
        *complete, rest = data.split(b"\n")
        for piece in complete:
            lines += self._take(piece)
            if not self._skipping:
                lines.append(bytes(self._buffer))
            self._buffer.clear()
            self._skipping = False
        lines += self._take(rest)
        return lines

    def rest(self) -> bytes:
        """What came after the last newline."""
        return bytes(self._buffer)

    def _take(self, piece: bytes) -> list[None]:
        if self._skipping:
            return []
        self._buffer += piece
        if len(self._buffer) <= MAX_LINE:
            return []
        self._buffer.clear()
        self._skipping = True
        return [None]


class Answers:
    """Standard output. Each answer is one line, written whole."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = asyncio.Lock()

    async def write(self, answer: dict[str, Any]) -> None:
        """A reader that is slow holds up answers, never the event loop."""
        line = strict_json.dumps(answer) + b"\n"
        async with self._lock:
            if len(line) <= select.PIPE_BUF and self._writable(0):  # pipe(7): does not block
                os.write(self._descriptor, line)
            else:
                await asyncio.to_thread(self._write_all, line)

    def _writable(self, timeout_s: float | None) -> bool:
        return bool(select.select([], [self._descriptor], [], timeout_s)[1])

    def _write_all(self, line: bytes) -> None:
        view = memoryview(line)
        while view:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:  # one socket for both directions: input made it so
                self._writable(None)


class StdioDoor:
    """Serves lines until the end of input."""

    def __init__(self, broker: Broker, caller: Caller, answers: Answers) -> None:
        self._broker = broker
        self._caller = caller
        self._answers = answers
        self._room = asyncio.Semaphore(MAX_PENDING)
        self._pending: set[asyncio.Task[None]] = set()

    async def serve(self, source: int) -> None:
        """Answer every line of the descriptor `source`; returns when all are answered."""
        splitter = LineSplitter()
        async for data in _chunks(source):
            for line in splitter.feed(data):
                await self._begin(line)
        await self._begin(splitter.rest())
        await self.answered()

    async def answered(self, timeout_s: float | None = None) -> None:
        """Wait until every line taken in has been answered."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=timeout_s)

    async def _begin(self, line: bytes | None) -> None:
        if line is not None and not line.strip():
            return
        await self._room.acquire()
        task = asyncio.create_task(self._serve_line(line))
        self._pending.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._room.release()
        self._pending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("an answer could not be written: %s", error)

    async def _serve_line(self, line: bytes | None) -> None:
        began = time.monotonic()
        name: Any = None
        try:
            fields = _parse(line)
            name = fields.get("id")
            answer = await self._answer(fields)
        except SandboxError as error:
            answer = self._refusal(error.code, error.message)
        except Exception:
            log.exception("a fault in the daemon")
            answer = self._refusal(ErrorCode.INTERNAL, "a fault in the daemon; its log tells more")
        duration = round(time.monotonic() - began, 6)
        await self._answers.write({"id": name} | answer | {"duration": duration})

    async def _answer(self, fields: dict[str, Any]) -> dict[str, Any]:
        request, key = _request(fields), fields.get("idempotency_key")
        if key is None:
            return (await self._broker.execute(self._caller, request)).as_json()
        from .once import EXECUTE, Keyed, execute_once

        keyed = Keyed.of(key, EXECUTE, _http_body(fields))
        answer = (await execute_once(self._broker, self._caller, request, keyed)).body
        return {name: value for name, value in answer.items() if name != "tool_call_id"}

    def _refusal(self, code: ErrorCode, message: str) -> dict[str, Any]:
        """The answer to a line that never became a call."""
        isolation = self._broker.runtime.isolation
        return ToolReply("", isolation, code, message, exit_code=NO_PROGRAM).as_json()


async def _chunks(source: int) -> AsyncIterator[bytes]:
    """What can be read from a descriptor, until its end."""
    kind = os.fstat(source).st_mode
    if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
        reader = asyncio.StreamReader(limit=_READ)
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(source, "rb", closefd=False)
        )
        while data := await reader.read(_READ):
            yield data
        return
    # A file cannot be polled, and a terminal must not be made non-blocking for others.
    chunks: asyncio.Queue[bytes] = asyncio.Queue(1)
    arguments = (source, chunks, asyncio.get_running_loop())
    threading.Thread(target=_pump, args=arguments, daemon=True).start()
    while data := await chunks.get():
        yield data


def _pump(source: int, chunks: asyncio.Queue[bytes], loop: asyncio.AbstractEventLoop) -> None:
    """Hand chunks over one at a time; the last is empty. Runs in a thread."""
    data = b"-"
    while data:
        try:
            data = os.read(source, _READ)
        except OSError as error:
            log.error("standard input cannot be read: %s", error)
            data = b""
        handed = chunks.put(data)
        try:
            asyncio.run_coroutine_threadsafe(handed, loop).result()
        except RuntimeError:  # the loop is gone, and with it who would read
            handed.close()
            return


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise SandboxError(
            ErrorCode.INVALID_REQUEST, f"a line of over {MAX_LINE} bytes was skipped"
        )
    try:
        fields = strict_json.loads(line)
    except ValueError as error:
        raise SandboxError(ErrorCode.INVALID_REQUEST, f"the line is refused: {error}") from error
    if not isinstance(fields, dict):
        raise SandboxError(ErrorCode.INVALID_REQUEST, "the line is not a JSON object")
    return fields


def _request(fields: dict[str, Any]) -> ToolRequest:
    unknown = fields.keys() - _FIELDS
    if unknown:
        raise _bad(f"unknown field {min(unknown)[:80]!r}; there are {', '.join(sorted(_FIELDS))}")
    tool, args = fields.get("tool"), fields.get("args", {})
    sandbox_id = fields.get("sandbox_id")
    if not isinstance(tool, str) or not 0 < len(tool) <= 128:
        raise _bad("tool is a name of 1 to 128 characters")
    if not isinstance(args, dict):
        raise _bad("args is an object: argument name -> value")
    if sandbox_id is not None and not isinstance(sandbox_id, str):
        raise _bad("sandbox_id is a string, as create gave it")
    if not isinstance(fields.get("idempotency_key", ""), str | None):
        raise _bad("idempotency_key is a string")
    trace = _trace(fields.get("trace"))
    name = fields.get("id")
    return ToolRequest(
        tool=tool,
        args=args,
        policy=_policy(fields.get("policy")),
        sandbox_id=sandbox_id,
        tool_call_id=str(name)[:128] if isinstance(name, str | int) else None,
        run_id=trace.get("run_id", ""),
        step_id=trace.get("step_id", ""),
    )


def _http_body(fields: dict[str, Any]) -> dict[str, Any]:
    """The same request over HTTP, where its `id` would not be known."""
    body = {"tool": {"name": fields["tool"], "args": fields.get("args", {})}}
    names = ("policy", "sandbox_id", "trace")
    return body | {name: fields[name] for name in names if fields.get(name) is not None}


def _trace(value: Any) -> dict[str, str]:
    match value:
        case None:
            return {}
        case dict() if value.keys() <= {"run_id", "step_id"} and all(
            isinstance(text, str) and len(text) <= 256 for text in value.values()
        ):
            return value
        case _:
            raise _bad("trace is an object of run_id and step_id, each up to 256 characters")


def _policy(value: Any) -> Policy | None:
    if value is None:
        return None
    from mas_sandbox.policy.model import parse_policy

    return parse_policy(value)


def _bad(reason: str) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, reason)
