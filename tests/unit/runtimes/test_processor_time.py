"""`cpu_ms` held by the host's own count, whatever the guest says."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.processor_time import INTERVAL_S, OWN_SHARE, OWN_US, ProcessorTime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

LOOKS = 3 * INTERVAL_S


class Meter:
    """What the sandbox used, in milliseconds, as its control group would say."""

    used_ms = 0.0

    def read(self) -> int | None:
        return int(self.used_ms * 1000)


def outcome(cpu_ms: int = 0) -> CallOutcome:
    return CallOutcome(0, b"", b"", None, False, None, "", False, cpu_ms, 0.0, 0.0)


def call(cpu_ms: int) -> Call:
    return Call("bash", {}, cpu_ms=cpu_ms)


async def working(seconds: float, cpu_ms: int = 0) -> CallOutcome:
    await asyncio.sleep(seconds)
    return outcome(cpu_ms)


def begun(work: Coroutine[Any, Any, CallOutcome]) -> asyncio.Task[CallOutcome]:
    return asyncio.create_task(work)


async def test_a_call_is_ended_once_its_sandbox_used_more_than_it_may() -> None:
    meter = Meter()
    meter.used_ms = 10_000  # of calls before
    time = ProcessorTime(meter.read)
    running = begun(time.run(call(1000), working(60)))
    await asyncio.sleep(LOOKS)
    meter.used_ms += 1000 * (1 + OWN_SHARE) + OWN_US / 1000 - 1
    await asyncio.sleep(LOOKS)
    assert not running.done()
    meter.used_ms += 2
    with pytest.raises(SandboxError) as ended:
        await asyncio.wait_for(running, 5)
    assert ended.value.code is ErrorCode.TIMEOUT
    assert "cpu_ms" in ended.value.message


async def test_a_call_without_a_limit_is_not_ended() -> None:
    meter = Meter()
    time = ProcessorTime(meter.read)
    running = begun(time.run(call(0), working(LOOKS)))
    meter.used_ms = 1_000_000
    assert (await running).exit_code == 0


async def test_calls_side_by_side_may_use_what_they_have_together() -> None:
    meter = Meter()
    time = ProcessorTime(meter.read)
    calls = [begun(time.run(call(1000), working(60))) for _ in range(2)]
    await asyncio.sleep(LOOKS)
    meter.used_ms = 2000
    await asyncio.sleep(LOOKS)
    assert not any(each.done() for each in calls)
    meter.used_ms = 4000
    for each in calls:
        with pytest.raises(SandboxError, match="cpu_ms"):
            await asyncio.wait_for(each, 5)


async def test_a_call_that_ended_leaves_the_others_no_more_than_it_used() -> None:
    meter = Meter()
    time = ProcessorTime(meter.read)
    long = begun(time.run(call(1000), working(60)))
    await time.run(call(60_000), working(0, cpu_ms=5))
    meter.used_ms = 3000
    with pytest.raises(SandboxError, match="cpu_ms"):
        await asyncio.wait_for(long, 5)


async def test_beside_a_call_without_a_limit_there_is_no_sum_to_hold() -> None:
    meter = Meter()
    time = ProcessorTime(meter.read)
    free = begun(time.run(call(0), working(2 * LOOKS)))
    limited = begun(time.run(call(100), working(LOOKS)))
    await asyncio.sleep(0)
    meter.used_ms = 5000
    assert (await limited).exit_code == 0
    assert (await free).exit_code == 0


async def test_a_cancelled_caller_is_cancelled_and_the_call_with_it() -> None:
    time = ProcessorTime(Meter().read)
    ended = asyncio.Event()

    async def work() -> CallOutcome:
        try:
            return await working(60)
        finally:
            ended.set()

    running = begun(time.run(call(100), work()))
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_where_nothing_counts_nothing_is_ended() -> None:
    time = ProcessorTime(lambda: None)
    assert (await time.run(call(1), working(LOOKS))).exit_code == 0
