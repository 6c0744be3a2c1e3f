"""The runtimes that one daemon runs calls in, and which of them a call goes to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Self

from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import Probe, Runtime


class Wall:
    """One runtime with its warm sandboxes."""

    def __init__(self, name: str, isolation: Isolation, build: Callable[[], Runtime]) -> None:
        """Nothing is built, and nothing tried, before somebody needs it."""
        self.name = name
        self.isolation = isolation
        self.probe: Probe | None = None
        self._build = build
        self._pool: Pool | None = None
        self._probing: asyncio.Task[Probe] | None = None

    @classmethod
    def standing(cls, pool: Pool, probe: Probe) -> Self:
        """One whose runtime was tried already."""
        runtime = pool.runtime
        wall = cls(runtime.name, runtime.isolation, lambda: runtime)
        wall.probe, wall._pool = probe, pool
        return wall

    @property
    def pool(self) -> Pool:
        """Only of a wall that was probed."""
        assert self._pool is not None
        return self._pool

    async def probed(self) -> Probe:
        """What this host can enforce with it. The first to ask waits for it to be tried."""
        if self.probe is None:
            if self._probing is None:
                self._pool = Pool(self._build(), 0)
                self._probing = asyncio.create_task(self._pool.runtime.probe())
            self.probe = await asyncio.shield(self._probing)
        return self.probe

    def refuses(self, isolation: Isolation | None, controls: frozenset[Control]) -> str:
        """Why a call that asks for these cannot run here, and the mend; empty if it can."""
        name, given = self.name, self.isolation
        if isolation is not None and isolation.strength > given.strength:
            return (
                f"the policy asks for isolation {isolation} at least; runtime {name} gives "
                f"{given}. Start the daemon with a stronger -runtime"
            )
        if self.probe is None:
            raise Unprobed(self)
        if not self.probe.available:
            return f"runtime {name}: {self.probe.reason}; to mend it: {self.probe.mend}"
        missing = sorted(controls - self.probe.enforced)
        if not missing:
            return ""
        known = (self.probe.controls.get(control) for control in missing)
        mends = dict.fromkeys(status.mend for status in known if status is not None and status.mend)
        hint = "; ".join(mends) or "choose another -runtime, or a policy that does not mention it"
        return (
            f"runtime {name} cannot enforce {', '.join(missing)} on this host; to mend it: {hint}"
        )

    async def close(self) -> None:
        if self._probing is not None and not self._probing.done():
            self._probing.cancel()
            await asyncio.wait([self._probing])
        if self._pool is not None:
            await self._pool.close()


class Unprobed(Exception):
    """What can be enforced with `wall` is not known yet; await its `probed` and ask again."""

    def __init__(self, wall: Wall) -> None:
        super().__init__(wall.name)
        self.wall = wall


class Walls:
    """Weakest first. `default`: where a call goes that asks for nothing stronger; weaker
    ones than it are never used."""

    def __init__(self, walls: Sequence[Wall], default: Wall | None = None) -> None:
        self._walls = sorted(walls, key=lambda wall: wall.isolation.strength)
        self.default = default or self._walls[0]

    def __iter__(self) -> Iterator[Wall]:
        return iter(self._walls)

    def choose(
        self, isolation: Isolation | None, controls: frozenset[Control], runtime: str | None = None
    ) -> Wall:
        """The weakest that satisfies both, or the one named `runtime` where that does.

        Raises SandboxError: `policy_unenforceable` with what each of them lacks,
        `invalid_request` for a runtime that is not among them; Unprobed where that is to be
        found out first.
        """
        floor = self.default.isolation.strength
        usable = [wall for wall in self._walls if wall.isolation.strength >= floor]
        if runtime is not None and runtime not in [wall.name for wall in usable]:
            names = ", ".join(wall.name for wall in usable)
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"runtime: this daemon has no {runtime!r}; it has {names}",
            )
        refusals = []
        for wall in usable:
            if runtime not in (None, wall.name):
                continue
            refusal = wall.refuses(isolation, controls)
            if not refusal:
                return wall
            refusals.append(refusal)
        raise SandboxError(ErrorCode.POLICY_UNENFORCEABLE, " | ".join(refusals))

    async def close(self) -> None:
        for wall in self._walls:
            await wall.close()
