"""What is kept of a named sandbox, also when it and its daemon are gone."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError


class State(StrEnum):
    """`interrupted`: it was not ended, it was lost: it died, or its daemon ended."""

    RUNNING = "running"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    ENDED = "ended"


LIVING = (State.RUNNING, State.PAUSED)


@dataclass(frozen=True, slots=True)
class Record:
    """Times are milliseconds since the epoch. `instance`: the daemon that has it; `reason`: why
    it is in its state; `expires_ms`: None where nothing but idleness ends it, or it is paused.
    """

    id: str
    principal: str
    instance: str
    state: State
    created_ms: int
    changed_ms: int
    reason: str
    runtime: str
    isolation: str
    enforced: tuple[str, ...]
    idle_timeout_s: float
    timeout_s: float | None
    on_timeout: str
    expires_ms: int | None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Query:
    """One page of one principal's sandboxes, newest first. `after`: where the page before ended;
    `metadata`: what a sandbox's must hold."""

    principal: str
    states: tuple[State, ...]
    metadata: Mapping[str, str]
    limit: int
    after: tuple[int, str] | None = None


def cursor_of(record: Record) -> str:
    """Where a page that ends with this record is continued; opaque to callers."""
    place = json.dumps([record.created_ms, record.id]).encode()
    return base64.urlsafe_b64encode(place).decode().rstrip("=")


def parse_cursor(cursor: str) -> tuple[int, str]:
    """Raises SandboxError `invalid_request` for what no page ended with."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        match strict_json.loads(base64.b64decode(padded, b"-_", validate=True)):
            case [int(created_ms), str(sandbox_id)] if 0 <= created_ms < 1 << 63:
                return created_ms, sandbox_id
    except ValueError:
        pass
    raise SandboxError(
        ErrorCode.INVALID_REQUEST, "cursor: not one of ours; pass `next_cursor` of the page before"
    )
