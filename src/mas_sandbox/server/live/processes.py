"""The processes of every named sandbox: started, listed, attached to, ended."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.process import SHELL, Process

from .abandon import abandon
from .process import LiveProcess, Reader, Wanted
from .ring import CAPACITY

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

    from ..broker import Broker, Operation
    from ..calls import Caller
    from ..sandboxes import NamedSandbox

MAX_RUNNING = 128
MAX_FINISHED = 64
OUTPUT_OF_RUNNING = 16 * CAPACITY
"""Bytes kept of all that run in one sandbox; where they are many, each has its share."""
OUTPUT_OF_FINISHED = 8 * CAPACITY
START_TIMEOUT_S = 10.0
_CPU_TIME = (
    "cpu_ms bounds the processor time of a call, and a process is not a call: nothing would "
    "hold it. Use the tool bash, or a policy without cpu_ms"
)


class Table:
    """The processes of one sandbox. Ids are the sandbox's own word, and may come back."""

    def __init__(self, named: NamedSandbox) -> None:
        self.named = named
        self.running: list[LiveProcess] = []
        self.finished: deque[LiveProcess] = deque(maxlen=MAX_FINISHED)
        self._streams = 0

    async def start(self, wanted: Wanted, operation: Operation) -> LiveProcess:
        """One that runs; its output is not taken before `begin`. Raises SandboxError."""
        allowed = operation.plan.call
        if allowed.cpu_ms:
            raise SandboxError(ErrorCode.POLICY_UNENFORCEABLE, _CPU_TIME)
        if self._streams >= MAX_RUNNING:
            raise SandboxError(
                ErrorCode.OVERLOADED, f"{MAX_RUNNING} processes run in this sandbox; end one"
            )
        if wanted.tag and any(each.wanted.tag == wanted.tag for each in self.running):
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"a process with the tag {wanted.tag} runs already; end it, or choose another",
            )
        process = Process(
            wanted.argv or [SHELL, "-c", wanted.cmd],
            cwd=wanted.cwd or allowed.cwd,
            env=allowed.env | wanted.env,
            nofile=allowed.nofile,
            paths=allowed.paths,
            pty=wanted.pty,
            timeout_ms=wanted.timeout_ms,
            user=wanted.user,
        )
        stream = self.named.sandbox.channel.start(process)
        self._streams += 1
        stream.result.add_done_callback(self._stream_ended)
        pid = await _started(stream)
        live = LiveProcess(
            self.named,
            stream,
            pid,
            process.cwd,
            wanted,
            share=self._share,
            ended=self._ended,
        )
        self.running.append(live)
        for each in self.running:
            each.trim(self._share())
        return live

    def find(self, which: str) -> LiveProcess:
        """By pid or tag; of several the one that runs, else the last. Raises SandboxError."""
        for each in (*reversed(self.running), *reversed(self.finished)):
            if which in (str(each.pid), each.wanted.tag):
                return each
        raise SandboxError(
            ErrorCode.NOT_FOUND,
            "no such process in this sandbox; of those that have ended the last "
            f"{MAX_FINISHED} are kept",
        )

    def _share(self) -> int:
        return min(CAPACITY, OUTPUT_OF_RUNNING // max(1, len(self.running)))

    def _stream_ended(self, _: object) -> None:
        self._streams -= 1

    def _ended(self, process: LiveProcess) -> None:
        self.running.remove(process)
        self.finished.append(process)
        kept = 0
        for each in reversed(self.finished):
            kept += len(each.ring)
            if kept > OUTPUT_OF_FINISHED:
                each.trim(0)


def _nothing() -> None:
    pass


class Processes:
    """Whoever owns a sandbox owns its processes; someone else's are not found."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._tables: dict[str, Table] = {}

    async def start(
        self,
        caller: Caller,
        sandbox_id: str,
        wanted: Wanted,
        *,
        attached: bool,
        begun: Callable[[], None] = _nothing,
    ) -> tuple[LiveProcess, Reader]:
        """A process that runs, and a reader of all its output, closed where not `attached`.
        That it runs is on record before this returns; where it is `attached`, before its
        exit is told. `begun` is called once it runs.

        Raises SandboxError: what the policy says of the tool `process`; `not_found` or
        `tool_failed` for a program that cannot be started; `overloaded`.
        """
        args = _described(wanted)
        process = None
        try:
            async with AsyncExitStack() as undo:
                operation = await undo.enter_async_context(
                    self._broker.operation(caller, sandbox_id, "process", args)
                )
                process = await self._table(operation.named).start(wanted, operation)
                begun()
                reader = process.attach()
                if not wanted.stdin:
                    process.stream.write_eof()
                if attached:
                    process.begin(undo.pop_all().aclose())
                else:
                    reader.close()
                    process.begin()
        except BaseException:
            if process is not None:
                process.stream.cancel()
            raise
        return process, reader

    def list(self, caller: Caller, sandbox_id: str) -> list[LiveProcess]:
        """Those that run, then those that have ended, the oldest first."""
        table = self._table(self._broker.sandboxes.find(caller.name, sandbox_id))
        return [*table.running, *table.finished]

    def find(self, caller: Caller, sandbox_id: str, which: str) -> LiveProcess:
        """By pid or tag. Raises SandboxError `not_found`."""
        named = self._broker.sandboxes.find(caller.name, sandbox_id)
        return self._table(named).find(which)

    def _table(self, named: NamedSandbox) -> Table:
        table = self._tables.get(named.id)
        if table is None:
            for other in [each for each in self._tables.values() if each.named.ended]:
                del self._tables[other.named.id]
            table = self._tables[named.id] = Table(named)
        return table


async def _started(stream: LiveStream) -> int:
    """The process's id. Raises SandboxError: why it did not start."""
    try:
        await asyncio.wait((stream.started,), timeout=START_TIMEOUT_S)
    except asyncio.CancelledError:
        abandon(stream)
        raise
    if not stream.started.done():
        abandon(stream)
        raise SandboxError(
            ErrorCode.TIMEOUT, f"the process did not start within {START_TIMEOUT_S:g} s"
        )
    if not stream.started.cancelled():
        return stream.started.result()
    result = await stream.result
    code = ErrorCode(result.code) if result.code else ErrorCode.TOOL_FAILED
    raise SandboxError(code, result.message or "the process did not start")


def _described(wanted: Wanted) -> dict[str, object]:
    """What policies decide on, and the audit log keeps."""
    return {
        "argv": wanted.argv,
        "cmd": wanted.cmd,
        "cwd": wanted.cwd,
        "env": wanted.env,
        "pty": wanted.pty is not None,
        "tag": wanted.tag,
        "user": wanted.user,
    }
