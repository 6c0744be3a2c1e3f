"""Processes outlive who started them; readers come, go, and hold them up."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import Bench, bench
from doubles.live_runtime import LiveGuest, LiveRuntime
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.model import parse_policy
from mas_sandbox.server.calls import Caller
from mas_sandbox.server.live import processes as processes_module
from mas_sandbox.server.live.process import MAX_READERS, LiveProcess, Reader, Wanted
from mas_sandbox.server.live.processes import Processes
from mas_sandbox.server.live.ring import CAPACITY
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio
ALICE = Caller("alice", DEFAULT_POLICY)


class Place:
    """A named sandbox of alice's, and what can be done in it."""

    def __init__(self, made: Bench, sandbox_id: str, guest: LiveGuest) -> None:
        self.bench = made
        self.id = sandbox_id
        self.guest = guest
        self.processes = Processes(made.broker)

    async def start(
        self, *argv: str, attached: bool = False, **options: Any
    ) -> tuple[LiveProcess, Reader]:
        wanted = Wanted(list(argv), **options)
        return await self.processes.start(ALICE, self.id, wanted, attached=attached)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    runtime = LiveRuntime()
    async with bench(tmp_path, runtime) as made:
        named = await made.broker.create(ALICE, None, 600)
        yield Place(made, named.id, runtime.guests[0])


async def told(reader: Reader) -> list[dict[str, Any]]:
    events = []
    async with asyncio.timeout(10):
        while (event := await reader.next()) is not None:
            events.append(json.loads(event.body))
    return events


def text(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b64decode(event["data"]) for event in events if "data" in event)


async def test_its_id_comes_first_then_its_output_then_its_end(place: Place) -> None:
    process, reader = await place.start("both", attached=True, tag="mine")
    with reader:
        assert await told(reader) == [
            {"type": "start", "pid": process.pid, "tag": "mine"},
            {"type": "stdout", "offset": 0, "data": "b3V0"},
            {"type": "stderr", "offset": 3, "data": "ZXJy"},
            {"type": "exit", "exit_code": 3, "signal": None, "error": None},
        ]


async def test_it_is_started_with_what_the_policy_gives(tmp_path: Path) -> None:
    policy = parse_policy(
        dict(DEFAULT_POLICY) | {"env": ["LANG"], "workdir": "/workspace/in", "nofile": 77}
    )
    runtime = LiveRuntime()
    async with bench(tmp_path, runtime, environment={"LANG": "C", "SECRET": "x"}) as made:
        caller = Caller("alice", policy)
        named = await made.broker.create(caller, None, 600)
        await Processes(made.broker).start(
            caller, named.id, Wanted(["echo"], env={"A": "1"}, pty=(9, 8)), attached=False
        )
    started = runtime.guests[0].started[0]
    assert started.env == {"LANG": "C", "A": "1"}
    assert (started.cwd, started.nofile, started.pty) == ("/workspace/in", 77, (9, 8))
    assert started.paths == [("/workspace", "rw")]


async def test_a_policy_without_it_refuses_and_both_are_recorded(place: Place) -> None:
    no_process = Caller("alice", parse_policy(dict(DEFAULT_POLICY) | {"tools": ["bash", "files"]}))
    with pytest.raises(SandboxError) as caught:
        await place.processes.start(no_process, place.id, Wanted(["echo"]), attached=False)
    assert caught.value.code is ErrorCode.POLICY_DENIED
    assert not place.guest.started
    await place.start("echo")
    decisions = [each["decision"]["action"] for each in place.bench.records("intent")]
    outcomes = [each["status"] for each in place.bench.records("outcome")]
    assert (decisions, outcomes) == (["deny", "allow"], ["error", "ok"])


async def test_a_bound_that_no_process_is_held_to_is_not_passed_over(place: Place) -> None:
    bounded = Caller("alice", parse_policy(dict(DEFAULT_POLICY) | {"cpu_ms": 1000}))
    with pytest.raises(SandboxError, match="cpu_ms") as caught:
        await place.processes.start(bounded, place.id, Wanted(["echo"]), attached=False)
    assert caught.value.code is ErrorCode.POLICY_UNENFORCEABLE


async def test_a_program_that_is_not_there_is_told_of(place: Place) -> None:
    with pytest.raises(SandboxError, match="no program nonsuch") as caught:
        await place.start("nonsuch")
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert place.processes.list(ALICE, place.id) == []


async def test_with_nobody_attached_it_goes_on_and_the_oldest_output_goes(place: Place) -> None:
    process, _ = await place.start("flood", str(5 * CAPACITY))
    async with asyncio.timeout(10):
        await process.wait()
    assert len(process.ring) <= CAPACITY
    with process.attach() as reader:
        events = await told(reader)
    assert [event["type"] for event in events][:3] == ["start", "gap", "stdout"]
    assert events[1]["bytes"] + len(text(events)) == 5 * CAPACITY


async def test_a_slow_reader_holds_it_up_and_misses_nothing(place: Place) -> None:
    process, slow = await place.start("flood", str(3 * CAPACITY), attached=True)
    with slow, process.attach() as quick:
        quickly = asyncio.create_task(told(quick))
        await asyncio.sleep(0.2)
        assert process.ending is None
        running = next(iter(place.guest.streams.values()))
        assert running.written < 2 * CAPACITY
        assert len(process.ring) < CAPACITY + 2 * 256 * 1024
        assert len(text(await told(slow))) == 3 * CAPACITY
        assert len(text(await quickly)) == 3 * CAPACITY


async def test_a_slow_reader_that_leaves_lets_it_go_on(place: Place) -> None:
    process, slow = await place.start("flood", str(3 * CAPACITY), attached=True)
    await asyncio.sleep(0.1)
    assert process.ending is None
    slow.close()
    async with asyncio.timeout(10):
        assert (await process.wait()).exit_code == 0


async def test_one_attaches_again_where_one_left_off(place: Place) -> None:
    process, reader = await place.start("cat", attached=True)
    await process.stream.write(b"one")
    with reader:
        events = [await reader.next(), await reader.next()]
    assert events[1] is not None
    resume = events[1].resume
    await process.stream.write(b"two")
    process.stream.write_eof()
    await process.wait()
    assert resume == 3
    with process.attach(resume) as again:
        assert text(await told(again)) == b"two"


async def test_it_is_found_by_id_and_by_tag_while_it_runs_and_after(place: Place) -> None:
    process, _ = await place.start("cat", tag="server")
    for which in (str(process.pid), "server"):
        assert place.processes.find(ALICE, place.id, which) is process
    with pytest.raises(SandboxError, match="server runs already"):
        await place.start("cat", tag="server")
    process.stream.cancel()
    ending = await process.wait()
    assert (ending.exit_code, ending.signal) == (137, 9)
    assert place.processes.find(ALICE, place.id, "server") is process
    again, _ = await place.start("cat", tag="server")
    assert place.processes.find(ALICE, place.id, "server") is again
    assert place.processes.list(ALICE, place.id) == [again, process]


async def test_someone_elses_are_not_found(place: Place) -> None:
    process, _ = await place.start("cat")
    mallory = Caller("mallory", DEFAULT_POLICY)
    with pytest.raises(SandboxError) as foreign:
        place.processes.find(mallory, place.id, str(process.pid))
    with pytest.raises(SandboxError) as absent:
        place.processes.find(mallory, "sb_nonsuch", "1")
    assert str(foreign.value) == str(absent.value)


async def test_what_can_run_be_kept_and_be_attached_is_bounded(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "MAX_RUNNING", 3)
    running = [(await place.start("cat"))[0] for _ in range(3)]
    with pytest.raises(SandboxError) as caught:
        await place.start("cat")
    assert caught.value.code is ErrorCode.OVERLOADED
    for _ in range(MAX_READERS):
        running[0].attach()
    with pytest.raises(SandboxError, match="readers"):
        running[0].attach()
    for process in running:
        process.stream.cancel()
        await process.wait()
    for _ in range(processes_module.MAX_FINISHED):
        process, _ = await place.start("echo")
        await process.wait()
    listed = place.processes.list(ALICE, place.id)
    assert len(listed) == processes_module.MAX_FINISHED
    assert running[0] not in listed


async def test_where_many_run_each_keeps_its_share(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "OUTPUT_OF_RUNNING", CAPACITY)
    first, _ = await place.start("cat")
    for _ in range(8):
        await first.stream.write(bytes(CAPACITY // 8))
    async with asyncio.timeout(10):
        while first.ring.end < CAPACITY:
            await asyncio.sleep(0.01)
    assert len(first.ring) > CAPACITY // 2
    with first.attach(CAPACITY // 2) as reader:
        await place.start("cat")
        assert len(first.ring) > CAPACITY // 2 - 65536
        assert first.ring.start <= reader.position
    await place.start("cat")
    assert len(first.ring) <= CAPACITY // 3


async def test_the_output_of_what_has_ended_is_bounded_over_all(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "OUTPUT_OF_FINISHED", 2 * CAPACITY)
    for _ in range(4):
        process, _ = await place.start("flood", str(CAPACITY))
        await process.wait()
    kept = [len(each.ring) for each in place.processes.list(ALICE, place.id)]
    assert sum(kept) <= 2 * CAPACITY
    assert kept[-1] > 0


async def test_a_sandbox_that_ends_ends_them_and_says_so(place: Place) -> None:
    _, reader = await place.start("cat", attached=True)
    with reader:
        await place.bench.broker.destroy(ALICE, place.id)
        last = (await told(reader))[-1]
    assert (last["type"], last["exit_code"]) == ("exit", None)
    assert last["error"]["code"] == "interrupted"
    with pytest.raises(SandboxError) as caught:
        place.processes.list(ALICE, place.id)
    assert caught.value.code is ErrorCode.NOT_FOUND


async def test_what_never_starts_is_given_up_and_ended(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(place.guest, "_start", silent)
    monkeypatch.setattr(processes_module, "START_TIMEOUT_S", 0.05)
    with pytest.raises(SandboxError) as caught:
        await place.start("cat")
    assert caught.value.code is ErrorCode.TIMEOUT
    async with asyncio.timeout(5):
        while place.guest.streams:
            await asyncio.sleep(0.01)
