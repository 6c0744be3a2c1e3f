"""Named sandboxes: they live from one call to the next, until destroyed or idle."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.policy.model import Policy

    from .plan import Built
    from .way_out import Reach, WayOut

from .way_out import SERVICE

log = logging.getLogger(__name__)

MAX_PER_PRINCIPAL = 32
REAP_INTERVAL_S = 1.0


@dataclass(eq=False, slots=True)
class NamedSandbox:
    """One named sandbox. `policy` is what its creator narrowed the operator's policy
    by, None where nothing was asked."""

    id: str
    owner: str
    built: Built
    sandbox: Sandbox
    way_out: WayOut
    policy: Policy | None
    idle_timeout_s: float
    last_used: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    calls: int = 0
    ended: bool = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While a call runs in it, a sandbox is not idle."""
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1
            self.last_used = asyncio.get_running_loop().time()

    def idle_since(self, now: float) -> float:
        return 0.0 if self.calls else now - self.last_used


class NamedSandboxes:
    """Who owns which sandbox. Someone else's is as absent as one that never was."""

    def __init__(
        self,
        way_out: Callable[[str, str, Reach], WayOut],
        max_per_principal: int = MAX_PER_PRINCIPAL,
    ) -> None:
        self._way_out = way_out
        self._max = max_per_principal
        self._by_id: dict[str, NamedSandbox] = {}
        self._starting: Counter[str] = Counter()
        self._reaper: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self._by_id)

    async def create(
        self, owner: str, built: Built, policy: Policy | None, idle_timeout_s: float
    ) -> NamedSandbox:
        """Start a sandbox for `owner`.

        Raises SandboxError `overloaded` when `owner` has as many as it may have, and
        what the runtime's start raises.
        """
        held = self._starting[owner] + sum(one.owner == owner for one in self._by_id.values())
        if held >= self._max:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"{held} sandboxes are open, the most one principal may have; destroy one",
            )
        self._starting[owner] += 1
        try:
            sandbox = await built.wall.pool.acquire(built.spec)
        finally:
            self._starting[owner] -= 1
        if self._closed:
            built.wall.pool.release(sandbox)
            raise SandboxError(ErrorCode.INTERRUPTED, "the daemon is shutting down")
        name = f"sb_{secrets.token_urlsafe(24)}"
        way_out = self._way_out(owner, name, built.reach)
        sandbox.channel.serve(SERVICE, way_out.serve)
        named = NamedSandbox(name, owner, built, sandbox, way_out, policy, idle_timeout_s)
        self._by_id[name] = named
        if self._reaper is None:
            self._reaper = asyncio.create_task(self._reap())
        return named

    def find(self, owner: str, sandbox_id: str) -> NamedSandbox:
        """Raises SandboxError `not_found`, in the same words for absent and for foreign."""
        named = self._by_id.get(sandbox_id)
        if named is None or named.owner != owner:
            raise SandboxError(
                ErrorCode.NOT_FOUND,
                "no such sandbox; it was never created, was destroyed, or was idle too long",
            )
        return named

    def end(self, named: NamedSandbox) -> None:
        """Forget a sandbox and stop it; calls that run in it end."""
        if self._by_id.pop(named.id, None) is not None:
            named.ended = True
            named.built.wall.pool.release(named.sandbox)

    def close(self) -> None:
        """End them all; the pool's `close` waits until they are gone."""
        self._closed = True
        if self._reaper is not None:
            self._reaper.cancel()
        for named in list(self._by_id.values()):
            self.end(named)

    async def _reap(self) -> None:
        while True:
            await asyncio.sleep(REAP_INTERVAL_S)
            now = asyncio.get_running_loop().time()
            for named in list(self._by_id.values()):
                dead = named.sandbox.channel.lost is not None and not named.calls
                if dead or named.idle_since(now) > named.idle_timeout_s:
                    log.info("sandbox %s ended: %s", named.id[:8], "dead" if dead else "idle")
                    self.end(named)
