"""A tool call as the broker takes it, and its answer, whatever the front door."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import Isolation

if TYPE_CHECKING:
    from mas_sandbox.policy.model import Policy


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `policy` is what the operator wrote for them, None where nothing was
    written and the policy shipped for the runtime holds."""

    name: str
    policy: Policy | None = None


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """What a caller asks for. `tool_call_id`, `run_id` and `step_id` are the caller's own
    names for it: they are echoed and recorded, never trusted to be unique. `begins` is
    called right before it runs, and never for a call that does not."""

    tool: str
    args: Mapping[str, Any]
    policy: Policy | None = None
    sandbox_id: str | None = None
    tool_call_id: str | None = None
    run_id: str = ""
    step_id: str = ""
    idempotency_key: str = ""
    begins: Callable[[], None] = _nothing


NO_PROGRAM = 1
"""The exit code of a call that failed without a program's own."""


@dataclass(frozen=True, slots=True)
class ToolReply:
    """How a call ended. `wall_ms` is the daemon's monotonic clock around the run alone;
    a call that never ran used nothing. `enforced` is sorted."""

    tool_call_id: str
    isolation: Isolation
    code: ErrorCode | None = None
    message: str = ""
    result: Any = None
    exit_code: int = 0
    stderr: str = ""
    truncated: bool = False
    cpu_ms: int = 0
    mem_mb: float = 0.0
    wall_ms: float = 0.0
    enforced: tuple[Control, ...] = field(default=())

    @property
    def status(self) -> str:
        return "ok" if self.code is None else "error"

    def as_json(self) -> dict[str, Any]:
        """The fields of `api.models.ExecuteReply`, less `tool_call_id`."""
        error = None
        if self.code is not None:
            error = {"code": str(self.code), "message": self.message}
        return {
            "status": self.status,
            "result": self.result,
            "error": error,
            "exit_code": self.exit_code,
            "stderr": self.stderr,
            "truncated": self.truncated,
            "usage": {
                "cpu_ms": self.cpu_ms,
                "mem_mb": round(self.mem_mb, 3),
                "wall_ms": round(self.wall_ms, 3),
            },
            "isolation": str(self.isolation),
            "enforced": [str(control) for control in self.enforced],
            "replayed": False,
        }
