"""One process that runs code in a sandbox, from its start to its end."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, assert_never

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind

from .abandon import abandon
from .code_marks import Budget, Marks, Said
from .code_program import program
from .code_words import Begun, Ended, Failed, Ready, Told, understood

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import Sandbox
    from mas_sandbox.wire.messages import Result
    from mas_sandbox.wire.process import Process

    from .code_run import Run

START_TIMEOUT_S = 60.0
"""A machine that is emulated takes seconds to import IPython."""
SETTLE_S = 0.1
"""How long a signal takes at most, from the daemon into the kernel."""
_SIGINT = 2
_SIGURG = 23
"""Ignored by whoever has no use for it (signal(7)); the kernel wakes at it, and does nothing."""


class Kernel:
    """`name`: `plain` or `ipython`, once it is `ready`; `lost`: why there is none any more."""

    def __init__(self, sandbox: Sandbox, process: Process, kernel: str, budget: Budget) -> None:
        """Raises SandboxError as `Channel.start` does."""
        loop = asyncio.get_running_loop()
        mark = "\x1e" + secrets.token_hex(16)
        self.name = ""
        self.lost: SandboxError | None = None
        self._sandbox = sandbox
        self._stream = sandbox.channel.start(process)
        self._marks = {
            "stdout": Marks(mark.encode(), budget),
            "stderr": Marks(mark.encode(), budget),
        }
        self._oom_kills = sandbox.oom_kills()
        self._ready: asyncio.Future[None] = loop.create_future()
        self._run: Run | None = None
        self._begun = False
        self._ended: asyncio.Future[str] | None = None
        self._status, self._awaited = "", set[str]()
        self._quiet_from = 0.0
        self._program = program(mark, kernel)
        self._listening = loop.create_task(self._listen())

    async def ready(self) -> None:
        """Until it takes code. Raises SandboxError, and then nothing is left of it."""
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                with contextlib.suppress(SandboxError):  # why it reads nothing, its end tells
                    await self._stream.write(self._program)
                await asyncio.shield(self._ready)
        except TimeoutError:
            late = SandboxError(
                ErrorCode.TIMEOUT, f"the kernel was not ready within {START_TIMEOUT_S:g} s"
            )
            self.stop(late)
            raise late from None
        except BaseException:
            self.stop(SandboxError(ErrorCode.INTERRUPTED, "the kernel was not needed any more"))
            raise

    async def run(self, run: Run) -> str:
        """Run code; its status. Raises SandboxError where the kernel did not live to say it."""
        loop = asyncio.get_running_loop()
        # What interrupts one run must not come as late as the next.
        await asyncio.sleep(max(0.0, self._quiet_from - loop.time()))
        if self.lost is not None:
            raise SandboxError(self.lost.code, self.lost.message)
        if run.cut is not None:
            run.flush()
            return "interrupted"
        self._run, self._ended = run, loop.create_future()
        self._status, self._awaited = "", {"stdout", "stderr"}
        self._oom_kills = self._sandbox.oom_kills()
        request = {"execution": run.execution, "code": run.wanted.code}
        try:
            await self._stream.write(strict_json.dumps(request) + b"\n")
            return await asyncio.shield(self._ended)
        except SandboxError:
            # Its input is closed a little before its end is known, which tells why.
            return await asyncio.shield(self._ended)
        finally:
            self._run, self._begun = None, False
            run.flush()

    def interrupt(self) -> None:
        """Send what is running a SIGINT, with all that it waits for. What has not begun yet
        would not heed it, and is sent one when it does."""
        if not self._begun:
            return
        loop = asyncio.get_running_loop()
        self._quiet_from = loop.time() + SETTLE_S
        self._stream.signal(_SIGINT)
        loop.call_later(SETTLE_S, self._wake, self._run)

    def _wake(self, run: Run | None) -> None:
        """Python that was about to wait when the signal came, or had it in another thread, heeds
        it when the waiting is over, and any other signal ends that (PEP 475)."""
        if run is not None and run is self._run:
            self._stream.signal(_SIGURG)

    def stop(self, reason: SandboxError) -> None:
        """End it, with all that it started."""
        self._lose(reason)
        self._listening.cancel()
        abandon(self._stream)

    async def _listen(self) -> None:
        try:
            while (item := await self._stream.read()) is not None:
                kind, data = item
                if kind is not Kind.VALUE:
                    self._hear("stderr" if kind is Kind.STDERR else "stdout", data)
                if self._run is not None:
                    await self._run.room(self._stream.result)
            self._lose(self._why(await self._stream.result))
        except SandboxError as error:
            self._lose(error)

    def _hear(self, pipe: str, data: bytes) -> None:
        for item in self._marks[pipe].feed(data):
            if isinstance(item, Said):
                self._obey(pipe, understood(item))
            elif self._run is not None:
                self._run.output(pipe, item)

    def _obey(self, pipe: str, said: Ready | Failed | Begun | Ended | Told) -> None:
        match said:
            case Begun():
                self._note_begin(said)
            case Told():
                if self._run is not None:
                    self._run.tell(said.kind, said.fields, said.size)
            case Ended():
                self._note_end(pipe, said)
            case Ready():
                if not self._ready.done():
                    self.name = said.kernel
                    self._ready.set_result(None)
            case Failed():
                if not self._ready.done():
                    self._lose(SandboxError(ErrorCode.NOT_FOUND, _unavailable(said.message)))
            case _:
                assert_never(said)

    def _note_begin(self, begin: Begun) -> None:
        if self._run is None or self._begun or begin.execution != self._run.execution:
            return
        self._begun = True
        if self._run.cut is not None:
            self.interrupt()

    def _note_end(self, pipe: str, end: Ended) -> None:
        """It is over when both pipes have said so: then all that was written has been heard."""
        if self._run is None or self._ended is None or end.execution != self._run.execution:
            return
        self._awaited.discard(pipe)
        self._status = end.status or self._status
        if not self._awaited and not self._ended.done():
            self._ended.set_result(self._status or "ok")

    def _why(self, result: Result) -> SandboxError:
        if result.code:
            return SandboxError(ErrorCode(result.code), result.message)
        if result.exit_code and self._sandbox.oom_kills() > self._oom_kills:
            return SandboxError(
                ErrorCode.OUT_OF_MEMORY,
                "the kernel was ended at the memory limit; raise mem_mb or use less",
            )
        return SandboxError(
            ErrorCode.TOOL_FAILED, f"the kernel has ended, with exit code {result.exit_code}"
        )

    def _lose(self, reason: SandboxError) -> None:
        if self.lost is not None:
            return
        self.lost = reason
        for pipe, marks in self._marks.items():
            rest = marks.close()
            if self._run is not None:
                self._run.output(pipe, rest)
        for waiting in (self._ready, self._ended):
            if waiting is not None and not waiting.done():
                waiting.set_exception(SandboxError(reason.code, reason.message))
                waiting.exception()  # marked as retrieved: nobody may be waiting


def _unavailable(message: str) -> str:
    return f"this sandbox has no kernel of that kind ({message}); ask for `plain`, or install it"
