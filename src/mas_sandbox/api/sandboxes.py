"""The bodies of `/v1/sandboxes`: sandboxes that are created, paused, listed and ended."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from mas_sandbox.policy.model import EnvName, Policy
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.isolation import Isolation

MAX_TIMEOUT_S = 30 * 24 * 3600
MAX_METADATA = 32
MAX_ENV = 64
MAX_ENV_BYTES = 32 * 1024
STATES = ("running", "paused", "interrupted", "ended")

State = Literal["running", "paused", "interrupted", "ended"]
OnTimeout = Literal["kill", "pause"]
Seconds = Annotated[int, Field(ge=1, le=MAX_TIMEOUT_S)]


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has a character that cannot be printed")
    return text


MetadataKey = Annotated[
    str, StringConstraints(min_length=1, max_length=64), AfterValidator(_printable)
]
MetadataValue = Annotated[str, StringConstraints(max_length=512), AfterValidator(_printable)]
EnvValue = Annotated[str, StringConstraints(max_length=8192, pattern=r"^[^\x00]*$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SandboxRequest(_Body):
    """`POST /v1/sandboxes`. `runtime`: made with this one and no other; `min_isolation`: walls
    of this strength at least; `image`: what a microvm is made from, `current` or a digest;
    `env`: variables of every call in it; `timeout_s`: how long it may live, for as long as it is
    used where missing; `idle_timeout_s`: how long it may be left unused."""

    runtime: str | None = Field(default=None, max_length=64, examples=["jail"])
    min_isolation: Isolation | None = None
    image: str | None = Field(default=None, max_length=256, examples=["current"])
    policy: Policy | None = None
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, max_length=MAX_ENV)
    metadata: dict[MetadataKey, MetadataValue] = Field(
        default_factory=dict, max_length=MAX_METADATA, examples=[{"run": "r-17"}]
    )
    timeout_s: Seconds | None = None
    idle_timeout_s: int = Field(default=600, ge=1, le=86_400)
    on_timeout: OnTimeout = Field(
        default="kill", description="what becomes of it when either time is over"
    )

    @model_validator(mode="after")
    def _env_fits(self) -> Self:
        size = sum(len(name) + len(value.encode()) for name, value in self.env.items())
        if size > MAX_ENV_BYTES:
            raise ValueError(f"'env' has {size} bytes; {MAX_ENV_BYTES} at most")
        return self


class SandboxInfo(_Body):
    """One sandbox. `interrupted`: it was not ended, it was lost: it died, or its daemon ended.
    `reason`: why it is in its state. Times are milliseconds since the epoch; `expires_ms`: when
    its time is over, null where only idleness ends it, or while it is paused."""

    sandbox_id: str
    state: State
    reason: str = ""
    runtime: str
    isolation: Isolation
    enforced: tuple[Control, ...]
    metadata: dict[str, str]
    timeout_s: float | None
    idle_timeout_s: float
    on_timeout: OnTimeout
    created_ms: int
    changed_ms: int
    expires_ms: int | None


class SandboxList(_Body):
    """`GET /v1/sandboxes`, newest first. `next_cursor`: of the next page; null on the last."""

    sandboxes: tuple[SandboxInfo, ...]
    next_cursor: str | None = None


class ExtendRequest(_Body):
    """`POST /v1/sandboxes/{id}/extend`: how long it may live from now on, more or less than
    before; a paused one, from when it is resumed."""

    timeout_s: Seconds


class PauseRequest(_Body):
    """`POST /v1/sandboxes/{id}/pause`: an empty object."""


class ResumeRequest(_Body):
    """`POST /v1/sandboxes/{id}/resume`. Without `timeout_s` it goes on with the time that it
    had left, or all of it again where none was."""

    timeout_s: Seconds | None = None
