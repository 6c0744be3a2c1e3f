"""One context: a kernel, what runs in it, and what waits for its turn."""

from __future__ import annotations

import asyncio
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.process import Process

from ..admission import Overloaded
from ..sandboxes import WrongState
from .code_kernel import Kernel
from .code_program import ARGV
from .code_run import Ending, Run, Wanted

if TYPE_CHECKING:
    from ..broker import Operation
    from ..sandboxes import NamedSandbox
    from .code_marks import Budget

MAX_RUNS = 16
"""That run, wait for their turn or were not read to their end, in one context."""
GRACE_S = 5.0
"""How long code that was interrupted at its deadline may take to end."""
_TICK_S = 1.0
_CPU_TIME = (
    "cpu_ms bounds the processor time of a call, and a context is not a call: nothing would "
    "hold it. Use the tool python, or a policy without cpu_ms"
)


@dataclass(frozen=True, slots=True)
class NewContext:
    """`cwd`: empty for where calls are; `env`: beside what the policy gives; `kernel`: `auto`,
    `plain` or `ipython`."""

    cwd: str = ""
    env: dict[str, str] = field(default_factory=dict)
    kernel: str = "auto"


class Context:
    """Its runs take turns, in the order in which they were asked for."""

    def __init__(self, named: NamedSandbox, wanted: NewContext, budget: Budget) -> None:
        self.id = f"ctx_{secrets.token_hex(8)}"
        self.named = named
        self.wanted = wanted
        self.cwd = wanted.cwd
        self.created_ms = time.time_ns() // 1_000_000
        self.executions = 0
        self.restarts = 0
        self.running: Run | None = None
        self._budget = budget
        self._kernel: Kernel | None = None
        self._kernel_name = ""
        self._closed: SandboxError | None = None
        self._turn = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._runs: set[Run] = set()

    @property
    def kernel(self) -> str:
        """`plain` or `ipython`."""
        return self._kernel_name

    @property
    def error(self) -> SandboxError | None:
        """Why it is dead."""
        return self._closed or (self._kernel.lost if self._kernel else None)

    async def begin(self, operation: Operation) -> None:
        """Start its kernel. Raises SandboxError: `not_found` for one that the sandbox does not
        have, or what the process could not be started for."""
        allowed = operation.plan.call
        if allowed.cpu_ms:
            raise SandboxError(ErrorCode.POLICY_UNENFORCEABLE, _CPU_TIME)
        self.cwd = self.wanted.cwd or allowed.cwd
        process = Process(
            ARGV,
            cwd=self.cwd,
            env=allowed.env | self.wanted.env,
            nofile=allowed.nofile,
            paths=allowed.paths,
        )
        kernel = Kernel(self.named.sandbox, process, self.wanted.kernel, self._budget)
        self._kernel = kernel
        await kernel.ready()
        self._kernel_name = kernel.name
        if self._closed is not None:  # meanwhile
            kernel.stop(self._closed)
            raise self._closed

    async def restart(self, operation: Operation) -> None:
        """Begin again without variables; what runs or waits is lost. Raises SandboxError as
        `begin` does; it is dead then."""
        async with self._changing:
            if self._closed is not None:
                raise self._closed
            assert self._kernel is not None
            restarted = _interrupted("the context was restarted")
            self._kernel.stop(restarted)
            for run in self._runs - {self.running}:
                run.lose(restarted)
            self.restarts += 1
            await self.begin(operation)

    def close(self, reason: SandboxError) -> None:
        """End it. Safe to call twice."""
        self._closed = self._closed or reason
        if self._kernel is not None:
            self._kernel.stop(reason)

    def interrupt(self, reason: SandboxError) -> None:
        """Interrupt what runs, if anything does."""
        if self.running is not None:
            self.running.cancel(reason)

    def admit(self, wanted: Wanted) -> Run:
        """A run that is to be carried out with `carry`. Raises WrongState where it is dead, and
        Overloaded."""
        if self.error is not None:
            raise WrongState(
                f"the context {self.id} is dead ({self.error.message}); restart it, and make "
                "its variables anew"
            )
        self._runs = {run for run in self._runs if not run.done_with}
        if len(self._runs) >= MAX_RUNS:
            raise Overloaded(
                f"{MAX_RUNS} runs of the context {self.id} wait for their turn or to be read", 1
            )
        run = Run(self.id, wanted, self._budget)
        self._runs.add(run)
        return run

    async def carry(self, run: Run) -> Ending:
        """Wait for its turn, and run it; how it ended, which it has not been told yet."""
        if run.cut is None:
            await self._turn_of(run)
        if run.cut is not None:
            return run.cut
        try:
            return await self._carry_out(run)
        finally:
            self._turn.release()

    async def _turn_of(self, run: Run) -> None:
        """Wait until it has its turn, or is cut and has none."""
        taking = asyncio.ensure_future(self._turn.acquire())
        run.interrupt = taking.cancel
        try:
            await asyncio.wait((taking,))
        finally:
            run.interrupt = None
            taking.cancel()  # nothing where it is done
        if run.cut is not None and not taking.cancelled():
            self._turn.release()

    async def _carry_out(self, run: Run) -> Ending:
        kernel = self._kernel
        assert kernel is not None
        self.executions += 1
        run.begin(self.executions)
        run.interrupt = kernel.interrupt
        self.running = run
        watch = asyncio.create_task(self._keep_time(run, kernel))
        try:
            status = await kernel.run(run)
        except SandboxError as error:
            return Ending("lost", error)
        finally:
            self.running = run.interrupt = None
            watch.cancel()
        if status != "interrupted":
            return Ending(status)
        return run.cut or Ending(status, _interrupted("the code raised KeyboardInterrupt"))

    async def _keep_time(self, run: Run, kernel: Kernel) -> None:
        timeout_ms = run.wanted.timeout_ms
        if not timeout_ms:
            return
        await _awake(self.named, timeout_ms / 1000)
        run.cancel(SandboxError(ErrorCode.TIMEOUT, f"interrupted after {timeout_ms} ms"))
        run.hurry()
        await _awake(self.named, GRACE_S)
        kernel.stop(
            SandboxError(
                ErrorCode.TIMEOUT,
                f"it went on for {GRACE_S:g} s after it was interrupted at {timeout_ms} ms, and "
                "its kernel was ended",
            )
        )


def _interrupted(why: str) -> SandboxError:
    return SandboxError(ErrorCode.INTERRUPTED, why)


async def _awake(named: NamedSandbox, seconds: float) -> None:
    """Until the sandbox has not been paused for so long."""
    while seconds > 0:
        step = min(seconds, _TICK_S)
        await asyncio.sleep(step)
        if named.paused_at is None:
            seconds -= step
