"""A client that is attached sees output before the start is on record, and the exit after."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from doubles.brokers import Bench, bench
from doubles.live_runtime import LiveRuntime
from mas_sandbox.audit.storage import Storage
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.server.calls import Caller
from mas_sandbox.server.live.process import LiveProcess, Reader, Wanted
from mas_sandbox.server.live.processes import Processes

pytestmark = pytest.mark.anyio
ALICE = Caller("alice", DEFAULT_POLICY)


class Disk(Storage):
    """Writes outcomes when it is `free`, or fails at them."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.asked = threading.Event()
        self.broken = False

    def write(self, descriptor: int, data: bytes) -> None:
        if b'"kind":"outcome"' in data:
            self.asked.set()
            self.free.wait(10)
            if self.broken:
                raise OSError(5, "Input/output error")
        super().write(descriptor, data)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
async def made(tmp_path: Path, disk: Disk) -> AsyncIterator[Bench]:
    async with bench(tmp_path, LiveRuntime(), storage=disk) as made:
        try:
            yield made
        finally:
            disk.free.set()


async def start(made: Bench, *argv: str, attached: bool) -> tuple[LiveProcess, Reader]:
    named = await made.broker.create(ALICE, None, 600)
    wanted = Wanted(list(argv))
    return await Processes(made.broker).start(ALICE, named.id, wanted, attached=attached)


async def kinds(reader: Reader, count: int) -> list[str]:
    async with asyncio.timeout(10):
        events = [await reader.next() for _ in range(count)]
    return [event.kind for event in events if event is not None]


async def test_output_does_not_wait_for_the_record_and_the_exit_does(
    made: Bench, disk: Disk
) -> None:
    process, reader = await start(made, "echo", "x", attached=True)
    assert await kinds(reader, 2) == ["start", "stdout"]
    assert await asyncio.to_thread(disk.asked.wait, 10)
    await process.stream.result
    for _ in range(20):
        await asyncio.sleep(0)
    assert (process.ending, made.records("outcome")) == (None, [])
    disk.free.set()
    assert await kinds(reader, 1) == ["exit"]
    assert [record["code"] for record in made.records("outcome")] == [""]


async def test_a_process_that_writes_nothing_is_on_record_soon(made: Bench, disk: Disk) -> None:
    disk.free.set()
    _, reader = await start(made, "cat", attached=True)
    async with asyncio.timeout(10):
        while not made.records("outcome"):
            await asyncio.sleep(0.005)
    reader.close()


async def test_it_is_ended_where_the_record_cannot_be_written(made: Bench, disk: Disk) -> None:
    disk.broken = True
    disk.free.set()
    process, reader = await start(made, "cat", attached=True)
    assert await kinds(reader, 2) == ["start", "exit"]
    assert process.ending is not None
    assert process.ending.exit_code == 137


async def test_whoever_is_not_attached_is_answered_when_it_is_on_record(
    made: Bench, disk: Disk
) -> None:
    starting = asyncio.create_task(start(made, "cat", attached=False))
    assert await asyncio.to_thread(disk.asked.wait, 10)
    assert not starting.done()
    disk.free.set()
    await starting
    assert made.records("outcome")
