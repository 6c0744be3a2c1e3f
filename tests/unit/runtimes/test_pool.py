"""Warm sandboxes: given out once, replaced, and all gone at the end."""

from __future__ import annotations

import asyncio

import pytest

from mas_sandbox.runtimes.base import Probe, Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.pool import KEPT_SPECS, REFILL_AFTER_S, Pool
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec(mem_mb=1)


class _Link:
    lost: SandboxError | None = None


class CountedSandbox(Sandbox):
    """A sandbox that only knows whether it was stopped."""

    enforced = frozenset()

    def __init__(self, owner: CountingRuntime) -> None:
        self.channel = _Link()  # type: ignore[assignment]  # the pool asks nothing else of it
        self._owner = owner
        self.warmed_up = False

    async def warm_up(self) -> None:
        await asyncio.sleep(0)
        if self._owner.chills:
            raise SandboxError(ErrorCode.GUEST_LOST, "told to fail")
        self.warmed_up = True

    async def stop(self) -> None:
        self._owner.alive.discard(self)

    def oom_kills(self) -> int:
        return 0


class CountingRuntime(Runtime):
    """A runtime that counts; it runs no process, so it says nothing about walls."""

    name = "counting"
    isolation = Isolation.NONE

    def __init__(self) -> None:
        self.alive: set[CountedSandbox] = set()
        self.started = 0
        self.fails = self.chills = False

    async def probe(self) -> Probe:
        return Probe(available=True)

    async def start(self, spec: SandboxSpec) -> Sandbox:
        await asyncio.sleep(0.001)
        if self.fails:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, "told to fail")
        self.started += 1
        sandbox = CountedSandbox(self)
        self.alive.add(sandbox)
        return sandbox


async def settle() -> None:
    await asyncio.sleep(0.05)
    for _ in range(50):  # a busy machine may have left no time for what comes at once
        await asyncio.sleep(0)


async def test_a_warm_sandbox_is_given_out_once_and_replaced() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 2)
    pool.warm(SPEC)
    await settle()
    assert len(runtime.alive) == 2
    given = [await pool.acquire(SPEC) for _ in range(5)]
    assert len(set(given)) == 5
    await asyncio.sleep(REFILL_AFTER_S)
    await settle()
    assert len(runtime.alive) == 7
    for sandbox in given:
        pool.release(sandbox)
    await pool.close()
    assert runtime.alive == set()


async def test_what_is_given_out_of_the_pool_has_been_warmed_up() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 1)
    first = await pool.acquire(SPEC)
    await settle()
    second = await pool.acquire(SPEC)
    assert isinstance(first, CountedSandbox)
    assert isinstance(second, CountedSandbox)
    assert (first.warmed_up, second.warmed_up) == (False, True)
    for sandbox in (first, second):
        pool.release(sandbox)
    await pool.close()


async def test_one_that_cannot_be_warmed_up_is_not_kept() -> None:
    runtime = CountingRuntime()
    runtime.chills = True
    pool = Pool(runtime, 2)
    pool.warm(SPEC)
    await settle()
    assert (runtime.started, runtime.alive) == (2, set())
    await pool.close()


async def test_the_next_is_started_after_the_call_that_the_last_was_taken_for() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 2)
    pool.warm(SPEC)
    await settle()
    await pool.acquire(SPEC)
    await asyncio.sleep(REFILL_AFTER_S / 3)
    assert runtime.started == 2
    await pool.acquire(SPEC)  # the last one: now it is time
    await settle()
    assert runtime.started == 4
    await pool.close()


async def test_a_sandbox_that_died_while_waiting_is_not_given_out() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 1)
    pool.warm(SPEC)
    await settle()
    (dead,) = runtime.alive
    dead.channel.lost = SandboxError(ErrorCode.GUEST_LOST, "gone")
    assert await pool.acquire(SPEC) is not dead
    await settle()
    assert dead not in runtime.alive
    await pool.close()


async def test_only_the_latest_specs_are_kept_warm() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 1)
    for number in range(KEPT_SPECS + 3):
        pool.warm(SandboxSpec(mem_mb=number))
        await settle()
    assert len(runtime.alive) == KEPT_SPECS
    await pool.close()
    assert runtime.alive == set()


async def test_a_pool_of_size_zero_starts_nothing_ahead() -> None:
    runtime = CountingRuntime()
    pool = Pool(runtime, 0)
    await pool.acquire(SPEC)
    await settle()
    assert runtime.started == 1
    await pool.close()


async def test_a_failed_start_reaches_the_caller_and_a_later_one_works() -> None:
    runtime = CountingRuntime()
    runtime.fails = True
    pool = Pool(runtime, 1)
    with pytest.raises(SandboxError, match="told to fail"):
        await pool.acquire(SPEC)
    await settle()
    runtime.fails = False
    await pool.acquire(SPEC)
    await pool.close()
