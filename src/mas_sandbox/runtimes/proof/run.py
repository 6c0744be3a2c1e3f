"""Runs the table of attempts against real sandboxes: as few of them as will do.

Most attempts share one sandbox with tight limits. Those that need it starved of
processor time or of disk have another one beside it. An attempt that proves nothing
there, because a neighbour ended their sandbox, is made again in one of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..base import Mount, Sandbox, SandboxSpec
from .attempts import ATTEMPTS, Attempt, Seen, Untried
from .programs import CPUS, DISK_FILES, DISK_MB, GIVEN, IOPS, MEM_MB, PIDS
from .stage import Stage

Start = Callable[[SandboxSpec], Awaitable[Sandbox]]
TIMEOUT_S = 120.0
"""After so long no more sandboxes are started; emulated machines take a quarter of it."""
ATTEMPT_TIMEOUT_S = 60.0
SIDE_BY_SIDE = 3
GIVE_UP_AFTER = 2
"""So many sandboxes in a row that did not start."""
_STARVED = frozenset({Control.CPU, Control.IO})


@dataclass(frozen=True, slots=True)
class Verdict:
    """`broke`: how the control was broken, empty where it held; `final`: worth keeping."""

    broke: str = ""
    final: bool = True


async def attack(start: Start, controls: Iterable[Control]) -> Mapping[Control, Verdict]:
    """Attack each of these controls that the table has an attempt for."""
    claimed = frozenset(controls)
    attempts = [each for each in ATTEMPTS if each.control in claimed]
    with Stage() as stage:
        bench = _Bench(start, stage, claimed)
        starved = [each for each in attempts if each.control in _STARVED]
        others = [each for each in attempts if each.control not in _STARVED]
        await asyncio.gather(bench.try_all(others), bench.try_all(starved))
        return bench.verdicts


class _Bench:
    def __init__(self, start: Start, stage: Stage, claimed: frozenset[Control]) -> None:
        self.verdicts: dict[Control, Verdict] = {}
        self._start = start
        self._stage = stage
        self._claimed = claimed
        self._deadline = time.monotonic() + TIMEOUT_S

    async def try_all(self, attempts: list[Attempt]) -> None:
        """In one sandbox; what was not decided there, each in its own, unless there was
        nothing to be had from that one at all."""
        undecided = await self._try_in_one(attempts) if attempts else []
        if len(attempts) < 2 or (undecided and len(undecided) == len(attempts)):
            return
        failures = 0
        for attempt in attempts if undecided is None else undecided:
            if failures < GIVE_UP_AFTER and time.monotonic() < self._deadline:
                started = await self._try_in_one([attempt]) is not None
                failures = 0 if started else failures + 1

    async def _try_in_one(self, attempts: list[Attempt]) -> list[Attempt] | None:
        """Those that proved nothing; None where the sandbox did not start."""
        try:
            async with await self._start(self._spec(attempts)) as sandbox:
                return await self._share(sandbox, attempts)
        except SandboxError as error:
            for attempt in attempts:
                self._undecided(attempt, error.message)
            return None

    async def _share(self, sandbox: Sandbox, attempts: list[Attempt]) -> list[Attempt]:
        """Those that proved nothing."""
        few = asyncio.Semaphore(SIDE_BY_SIDE)

        async def one(attempt: Attempt) -> bool:
            async with few:
                return await self._try(sandbox, attempt)

        together = [each for each in attempts if not each.alone]
        proved = dict(zip(together, await asyncio.gather(*map(one, together)), strict=True))
        for attempt in attempts:
            if attempt.alone:
                proved[attempt] = await self._try(sandbox, attempt)
        return [attempt for attempt, proven in proved.items() if not proven]

    async def _try(self, sandbox: Sandbox, attempt: Attempt) -> bool:
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT_S):
                seen = await _run(sandbox, attempt, self._stage)
            self.verdicts[attempt.control] = Verdict(attempt.broke(self._stage, seen))
        except (Untried, TimeoutError) as error:
            self._undecided(attempt, str(error) or "the attempt took too long")
            return False
        return True

    def _undecided(self, attempt: Attempt, why: str) -> None:
        self.verdicts[attempt.control] = Verdict(f"could not be tried: {why}", final=False)

    def _spec(self, attempts: list[Attempt]) -> SandboxSpec:
        """A sandbox with the limits that are to be broken. Memory is always the same: so
        are a machine's templates, then."""
        limits: dict[Control, dict[str, Any]] = {
            Control.PIDS: {"pids": PIDS},
            Control.DISK: {"disk_mb": DISK_MB},
            Control.DISK_FILES: {"disk_files": DISK_FILES},
            Control.CPU: {"cpus": CPUS},
            Control.IO: {"iops": IOPS},
            Control.HOST_PATHS: {"mounts": (Mount(GIVEN, str(self._stage.given)),)},
        }
        fields: dict[str, Any] = {"mem_mb": MEM_MB} if Control.MEMORY in self._claimed else {}
        for attempt in attempts:
            fields |= limits.get(attempt.control, {})
        return SandboxSpec(**fields)


async def _run(sandbox: Sandbox, attempt: Attempt, stage: Stage) -> Seen:
    """Raises Untried when the sandbox was lost to something else than the attempt."""
    before, started = sandbox.cpu_us(), time.monotonic()
    try:
        outcome = await sandbox.run(attempt.call(stage))
    except SandboxError as error:
        if error.code in (ErrorCode.GUEST_LOST, ErrorCode.GUEST_PROTOCOL_ERROR):
            raise Untried(error.message) from error
        return Seen(code=error.code, message=error.message)
    used = sandbox.cpu_us()
    return Seen(
        stdout=outcome.stdout.decode("utf-8", "replace"),
        code=outcome.code,
        message=outcome.message or outcome.stderr.decode("utf-8", "replace")[-300:],
        cpu_ms=None if used is None or before is None else (used - before) / 1000,
        wall_ms=(time.monotonic() - started) * 1000,
    )
