"""The bodies of stateful code: contexts that keep their variables, and what runs in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from .live import Failed, KeepAlive, Path, Text, VariableName
from .models import ErrorBody

Language = Literal["python"]
MAX_CODE = 1 << 20


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CreateContext(_Body):
    """`POST /v1/sandboxes/{id}/code/contexts`. `cwd`: where it begins, the policy's `workdir`
    or `/workspace` where missing; `env`: variables beside the sandbox's; `kernel`: `plain` is
    the one that is always there, `ipython` needs `ipykernel` in the sandbox, `auto` takes the
    best there is."""

    language: Language = "python"
    cwd: Path | None = None
    env: dict[VariableName, Text] = Field(default_factory=dict, max_length=1024)
    kernel: Literal["auto", "plain", "ipython"] = "auto"


class ContextInfo(_Body):
    """One context. `executions`: how many runs it has begun; `restarts`: how often it began
    again; `error`: why it is `dead`, which only a restart mends."""

    context_id: str
    language: Language
    kernel: Literal["plain", "ipython"]
    cwd: str
    state: Literal["idle", "busy", "dead"]
    created_ms: int
    executions: int
    restarts: int
    error: ErrorBody | None = None


class ContextList(_Body):
    """`GET .../code/contexts`, oldest first."""

    contexts: tuple[ContextInfo, ...]


class RunCode(_Body):
    """`POST .../code/run`. `context_id`: missing for the sandbox's own context, which is made
    when it is first needed; `timeout_ms`: after so long the run is interrupted, 0 for never."""

    code: str = Field(max_length=MAX_CODE)
    context_id: str | None = Field(default=None, max_length=64)
    timeout_ms: int = Field(default=0, ge=0, le=31_536_000_000)
    on_disconnect: Literal["detach", "cancel"] = "cancel"


class CodeStarted(_Body):
    """The first event of a run. `execution`: its number in its context, from 1."""

    type: Literal["start"]
    context_id: str
    execution: int


class CodeOutput(_Body):
    """What it printed, as text: what is no UTF-8 is replaced."""

    type: Literal["stdout", "stderr"]
    text: str


class CodeResult(_Body):
    """Something to look at. `data`: the same thing by media type: `text/plain`, `text/html`,
    `text/markdown`, `text/latex`, `image/svg+xml` and others as text; `application/json` and
    what ends with `+json` as any JSON value; `image/png`, `image/jpeg` and `application/pdf` in
    base64. `main`: it is the value of the last expression."""

    type: Literal["result"]
    data: dict[str, Any]
    main: bool


class CodeError(_Body):
    """An exception that nothing caught. `name`: its class; `traceback`: as Python prints it."""

    type: Literal["exception"]
    name: str
    value: str
    traceback: str


class CodeEnded(_Body):
    """The last event of a run. `error`: why the run was cut off, null where it ran to its end,
    with or without an exception."""

    type: Literal["end"]
    status: Literal["ok", "exception", "interrupted", "lost"]
    error: ErrorBody | None = None


class CodeEvent(
    RootModel[
        Annotated[
            CodeStarted | CodeOutput | CodeResult | CodeError | CodeEnded | KeepAlive | Failed,
            Field(discriminator="type"),
        ]
    ]
):
    """One event of a run, the same over WebSocket, server-sent events and NDJSON."""


class InterruptMessage(_Body):
    """What a client may say over a run's WebSocket after its body: interrupt it."""

    type: Literal["interrupt"]


class Execution(_Body):
    """A whole run: the answer of `POST .../code/run` to whoever accepts no stream. `truncated`:
    more was printed, or shown, than is told here."""

    context_id: str
    execution: int
    stdout: str
    stderr: str
    results: tuple[CodeResult, ...]
    exception: CodeError | None = None
    status: Literal["ok", "exception", "interrupted", "lost"]
    error: ErrorBody | None = None
    truncated: bool = False
