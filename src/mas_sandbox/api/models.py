"""The bodies of the HTTP API, shared by the daemon and the SDK."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mas_sandbox.policy.model import Policy
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import Isolation

_ID = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"


class _Body(BaseModel):
    """Unknown fields are refused: a misspelt limit must never be a missing limit."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ToolCall(_Body):
    """Which tool to run, and its arguments by name."""

    name: str = Field(min_length=1, max_length=128, examples=["calculator"])
    args: dict[str, Any] = Field(default_factory=dict, examples=[{"expression": "15 * 8 + 7"}])


class Trace(_Body):
    """Where in the agent's run the call was made; copied into the audit log."""

    run_id: str = Field(default="", max_length=256)
    step_id: str = Field(default="", max_length=256)


class ExecuteRequest(_Body):
    """`POST /v1/sandbox/execute`. Without `sandbox_id` the call gets a fresh sandbox."""

    sandbox_id: str | None = Field(default=None, pattern=_ID)
    tool_call_id: str | None = Field(default=None, pattern=_ID)
    tool: ToolCall
    policy: Policy | None = None
    trace: Trace | None = None


class ErrorBody(_Body):
    """A code from the table of error codes, and what to do about it. `reason`: why work on
    files failed, where it did for one that a program can act on."""

    code: ErrorCode
    message: str
    reason: str = ""


class Usage(_Body):
    """What a call used. `wall_ms` is the daemon's monotonic clock."""

    cpu_ms: int
    mem_mb: float
    wall_ms: float


class ExecuteReply(_Body):
    """How a call ended. `enforced`: the controls that were in force around it.

    `result` is what the tool returned; for a tool that runs a program, its stdout.
    `exit_code` is the program's, 128 + N where signal N ended it. `replayed`: of a call with
    an idempotency key, that this is the answer to an earlier request.
    """

    tool_call_id: str
    status: Literal["ok", "error"]
    result: Any = None
    error: ErrorBody | None = None
    exit_code: int
    stderr: str = ""
    truncated: bool = False
    usage: Usage
    isolation: Isolation
    enforced: tuple[Control, ...]
    replayed: bool = False


class CreateRequest(_Body):
    """`POST /v1/sandbox/create`: a sandbox that lives until it is destroyed or idle."""

    policy: Policy | None = None
    idle_timeout_s: int = Field(default=600, ge=1, le=86_400)


class CreateReply(_Body):
    """A sandbox to name in later calls."""

    sandbox_id: str
    runtime: str
    isolation: Isolation
    enforced: tuple[Control, ...]


class DestroyRequest(_Body):
    """`POST /v1/sandbox/destroy`."""

    sandbox_id: str = Field(pattern=_ID)


class DestroyReply(_Body):
    """The sandbox and all it held are gone."""

    sandbox_id: str
    status: Literal["destroyed"] = "destroyed"


class Health(_Body):
    """`GET /v1/sandbox/health`. `running` and `waiting` count calls, `sandboxes` the named ones."""

    status: Literal["ok", "draining"]
    version: str
    runtime: str
    isolation: Isolation
    running: int
    waiting: int
    sandboxes: int


class ToolInfo(_Body):
    """One tool as a model's API wants it described."""

    name: str
    description: str
    input_schema: dict[str, Any]
    capabilities: tuple[str, ...]


class ToolList(_Body):
    """`GET /v1/tools`: the tools that the caller's policy allows."""

    tools: tuple[ToolInfo, ...]


class ControlInfo(_Body):
    """One control of one runtime, as this host was found to hold it.

    `mechanism`: what enforces it, or why nothing does; `mend`: what would change that.
    """

    status: Literal["enforced", "unavailable"]
    mechanism: str
    mend: str = ""


class RuntimeInfo(_Body):
    """One runtime of the daemon. `default`: where calls go that ask for nothing stronger;
    `reason` and `mend`: why it is not available, and the command that would change that."""

    name: str
    isolation: Isolation
    default: bool
    available: bool
    version: str = ""
    reason: str = ""
    mend: str = ""
    controls: dict[Control, ControlInfo]


class RuntimeList(_Body):
    """`GET /v1/runtimes`: the daemon's runtimes, weakest first."""

    runtimes: tuple[RuntimeInfo, ...]


class Problem(_Body):
    """The body of every 4xx and 5xx: the request never became a call."""

    error: ErrorBody
