"""How a call through a channel ended, as the host saw and checked it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mas_sandbox.wire.errors import ErrorCode


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """A call that was answered. A sandbox that died is an exception, never this.

    `value` is what the tool returned where `has_value`; a tool that runs a program
    returns nothing and its `stdout` is its result. `code` and `message` are set
    when the call failed; `reason` is one of wire.messages.FILE_REASONS. `truncated`:
    output was cut at the call's limit.
    `cpu_ms` and `mem_mb` are the guest's word, bounded by the host; `wall_ms` is
    the host's own monotonic clock.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes
    value: Any
    has_value: bool
    code: ErrorCode | None
    message: str
    truncated: bool
    cpu_ms: int
    mem_mb: float
    wall_ms: float
    reason: str = ""
