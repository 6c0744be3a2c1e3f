"""What the creator of a named sandbox asked for beside a policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

IDLE_TIMEOUT_S = 600


class OnTimeout(StrEnum):
    """What becomes of a sandbox whose time, or idle time, is over."""

    KILL = "kill"
    PAUSE = "pause"


@dataclass(frozen=True, slots=True)
class Terms:
    """`timeout_s`: how long it may live, None for as long as it is used; `idle_timeout_s`: how
    long it may be left unused; `env`: of every call in it, by name; `runtime`, `image`: what it
    must be made with, None for the daemon's choice."""

    idle_timeout_s: float = IDLE_TIMEOUT_S
    timeout_s: float | None = None
    on_timeout: OnTimeout = OnTimeout.KILL
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    runtime: str | None = None
    image: str | None = None
