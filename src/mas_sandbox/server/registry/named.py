"""One named sandbox, and the clocks that it lives by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .record import Record, State

if TYPE_CHECKING:
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import Sandbox

    from ..plan import Built
    from ..way_out import WayOut
    from .terms import Terms

_PAUSED = "the sandbox is paused; resume it first"
_OVER = "the sandbox's time is over, and it is paused when its last call has ended; extend it first"


class WrongState(SandboxError):
    """What is asked cannot be done with the sandbox as it is now; it can be later."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(eq=False, slots=True)
class NamedSandbox:
    """`policy` is what its creator narrowed the operator's policy by, None where nothing was
    asked. Times are the event loop's, which no change of the host's clock moves; a sandbox
    that is paused does not age."""

    id: str
    owner: str
    built: Built
    sandbox: Sandbox
    way_out: WayOut
    policy: Policy | None
    terms: Terms
    created_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    last_used: float = field(default_factory=_now)
    ends_at: float | None = None
    """When its time is over; while it is paused, how much of it is left."""
    paused_at: float | None = None
    pausing: bool = False
    over: bool = False
    """Its time is over, and it waits to be paused."""
    uses: int = 0
    ended: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        if self.terms.timeout_s is not None:
            self.ends_at = _now() + self.terms.timeout_s

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While something is done in it, a sandbox is not idle. Raises WrongState while it is
        paused."""
        if self.pausing or self.paused_at is not None:
            raise WrongState(_PAUSED)
        if self.over:
            raise WrongState(_OVER)
        self.uses += 1
        try:
            yield
        finally:
            self.uses -= 1
            self.last_used = _now()

    def is_idle(self, now: float) -> bool:
        return not self.uses and now - self.last_used > self.terms.idle_timeout_s

    def is_over(self, now: float) -> bool:
        return self.ends_at is not None and now >= self.ends_at

    async def pause(self) -> None:
        """Raises WrongState while something with a deadline runs in it, and SandboxError as
        `Sandbox.pause` does."""
        self.pausing = True
        try:
            await self.sandbox.pause()
        except SandboxError as error:
            if error.code is ErrorCode.INVALID_REQUEST:
                raise WrongState(error.message) from error
            raise
        finally:
            self.pausing = False
        now = self.paused_at = _now()
        if self.ends_at is not None:
            self.ends_at -= now

    async def resume(self) -> None:
        """It goes on with the time it had left, or all of it again where none was. Raises
        SandboxError as `Sandbox.resume` does."""
        await self.sandbox.resume()
        now = self.last_used = _now()
        self.paused_at, self.over = None, False
        if self.ends_at is not None:
            self.ends_at = now + (self.ends_at if self.ends_at > 0 else self.terms.timeout_s or 0)

    def extend(self, timeout_s: float) -> None:
        """Let it live for so long from now on, or from when it is resumed."""
        self.terms = replace(self.terms, timeout_s=timeout_s)
        self.over = False
        self.ends_at = timeout_s if self.paused_at is not None else _now() + timeout_s

    def record(self, instance: str, state: State | None = None, reason: str = "") -> Record:
        """What is kept of it; `state`: how it ended."""
        now_ms = time.time_ns() // 1_000_000
        is_paused = self.paused_at is not None
        expires_ms = None
        if self.ends_at is not None and not is_paused and state is None:
            expires_ms = now_ms + round((self.ends_at - _now()) * 1000)
        wall, terms = self.built.wall, self.terms
        return Record(
            id=self.id,
            principal=self.owner,
            instance=instance,
            state=state or (State.PAUSED if is_paused else State.RUNNING),
            created_ms=self.created_ms,
            changed_ms=now_ms,
            reason=reason,
            runtime=wall.name,
            isolation=str(wall.isolation),
            enforced=tuple(sorted(map(str, self.sandbox.enforced))),
            idle_timeout_s=terms.idle_timeout_s,
            timeout_s=terms.timeout_s,
            on_timeout=str(terms.on_timeout),
            expires_ms=expires_ms,
            metadata=dict(terms.metadata),
        )
