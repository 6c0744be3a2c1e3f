"""A runtime without processes: sandboxes are objects, and a tool is a Python coroutine.

It follows `mas_sandbox.runtimes.base`. It does not model: a channel's frames and credit,
limits, output bounds, deadlines, files, or anything that isolates. What it does model:
starting and stopping (counted), starts that fail, sandboxes that die under a call, and
the cancellation of a call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from mas_sandbox.runtimes.base import ControlStatus, Probe, Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation
from mas_sandbox.wire.messages import Call

Tool = Callable[[Call], Awaitable[CallOutcome]]


def returned(value: Any = None, **changes: Any) -> CallOutcome:
    """The outcome of a tool that returned `value`."""
    fields: dict[str, Any] = {
        "exit_code": 0,
        "stdout": b"",
        "stderr": b"",
        "value": value,
        "has_value": True,
        "code": None,
        "message": "",
        "truncated": False,
        "cpu_ms": 1,
        "mem_mb": 2.0,
        "wall_ms": 3.0,
    }
    return CallOutcome(**{**fields, **changes})


async def echo(call: Call) -> CallOutcome:
    """The tool of a runtime that was given none: it returns its arguments."""
    return returned(call.args)


class _Line:
    """What others look at of a channel, and the services they offer it."""

    def __init__(self) -> None:
        self.lost: SandboxError | None = None
        self.services: dict[str, Any] = {}

    def serve(self, service: str, handler: Any) -> None:
        self.services[service] = handler

    def close(self) -> None:
        if self.lost is None:
            self.lost = SandboxError(ErrorCode.INTERRUPTED, "the sandbox was stopped")


class MemorySandbox(Sandbox):
    """Runs calls by awaiting the runtime's tool."""

    def __init__(self, runtime: MemoryRuntime, name: str, spec: SandboxSpec) -> None:
        self.id = name
        self.spec = spec
        self.channel = _Line()  # type: ignore[assignment] # a double of what is looked at
        self.enforced = runtime.sandbox_controls
        self.calls: list[Call] = []
        self.stopped = self.paused = False
        self._running = 0
        self._runtime = runtime

    def oom_kills(self) -> int:
        return 0

    async def run(self, call: Call) -> CallOutcome:
        if self.channel.lost is not None:
            raise self.channel.lost
        self.calls.append(call)
        self._running += 1
        try:
            return await self._runtime.tool(call)
        except SandboxError as error:
            self.channel.lost = error
            raise
        finally:
            self._running -= 1

    async def pause(self) -> None:
        if self._running:
            raise SandboxError(ErrorCode.INVALID_REQUEST, "calls run in the sandbox")
        if self._runtime.fail_pause is not None:
            raise self._runtime.fail_pause
        self.paused = True

    async def resume(self) -> None:
        self.paused = False

    async def stop(self) -> None:
        self.stopped = True


class MemoryRuntime(Runtime):
    """Enforces `controls`, by its own word. `fail_start`, `fail_pause`: what the next starts
    and pauses raise."""

    name = "memory"

    def __init__(
        self,
        tool: Tool = echo,
        *,
        isolation: Isolation = Isolation.VM,
        controls: frozenset[Control] = frozenset(Control),
    ) -> None:
        self.tool = tool
        self.isolation = isolation
        self.controls = controls
        self.sandbox_controls = controls
        self.fail_start: Exception | None = None
        self.fail_pause: Exception | None = None
        self.sandboxes: list[MemorySandbox] = []
        self.closed = False

    async def probe(self) -> Probe:
        status = {
            control: ControlStatus(control in self.controls, "in memory", f"mend {control}")
            for control in Control
        }
        return Probe(available=True, version="1", controls=status)

    async def start(self, spec: SandboxSpec) -> Sandbox:
        if self.fail_start is not None:
            raise self.fail_start
        sandbox = MemorySandbox(self, f"memory-{len(self.sandboxes)}", spec)
        self.sandboxes.append(sandbox)
        return sandbox

    def has_image(self, name: str) -> bool:
        return name == "of-memory"

    async def close(self) -> None:
        self.closed = True

    @property
    def living(self) -> list[MemorySandbox]:
        return [sandbox for sandbox in self.sandboxes if not sandbox.stopped]
