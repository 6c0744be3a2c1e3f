"""How long named sandboxes live, how they are paused, and what is written down of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server import sandboxes as module
from mas_sandbox.server.calls import Caller, ToolRequest
from mas_sandbox.server.registry.quota import Quota
from mas_sandbox.server.registry.record import Record, State
from mas_sandbox.server.registry.terms import OnTimeout, Terms
from mas_sandbox.server.sandboxes import NamedSandbox, WrongState
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

ALICE, BOB = Caller("alice"), Caller("bob")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_INTERVAL_S", 0.01)


def call(named: NamedSandbox) -> ToolRequest:
    return ToolRequest("calculator", {"expression": "1"}, None, named.id)


async def about(made: Bench, named: NamedSandbox) -> Record:
    return await made.broker.sandboxes.about("alice", named.id)


async def until(made: Bench, named: NamedSandbox, state: State) -> Record:
    async with asyncio.timeout(5):
        while (record := await about(made, named)).state is not state:
            await asyncio.sleep(0.01)
    return record


def actions(made: Bench) -> list[tuple[str, str]]:
    return [(each["action"], each["reason"]) for each in made.records("sandbox")]


async def until_recorded(made: Bench, *wanted: tuple[str, str]) -> None:
    async with asyncio.timeout(5):
        while actions(made) != [*wanted]:
            await asyncio.sleep(0.01)


class Held:
    """A tool that goes on until it is let go."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.began = asyncio.Event()

    async def __call__(self, call: Call) -> CallOutcome:
        self.began.set()
        await self.release.wait()
        return returned(1)


async def test_it_ends_when_its_time_is_over_however_busy_it_is(tmp_path: Path) -> None:
    held = Held()
    async with bench(tmp_path, MemoryRuntime(held)) as made:
        named = await made.broker.open_sandbox(ALICE, None, Terms(timeout_s=0.5))
        running = asyncio.create_task(made.broker.execute(ALICE, call(named)))
        record = await until(made, named, State.ENDED)
        assert (record.reason, record.expires_ms) == ("timeout", None)
        assert made.runtime.living == []
        held.release.set()
        await running


async def test_extending_counts_from_now_and_may_shorten(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        named = await made.broker.open_sandbox(ALICE, None, Terms(timeout_s=1))
        record = await made.broker.sandboxes.extend("alice", named.id, 60)
        assert record.expires_ms is not None
        assert 59_000 < record.expires_ms - record.changed_ms <= 60_000
        await asyncio.sleep(1.1)
        assert (await about(made, named)).state is State.RUNNING
        await made.broker.sandboxes.extend("alice", named.id, 0.5)
        await until(made, named, State.ENDED)
        await until_recorded(
            made, ("create", ""), ("extend", ""), ("extend", ""), ("end", "timeout")
        )


async def test_a_paused_sandbox_takes_nothing_does_not_age_and_goes_on(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        terms = Terms(idle_timeout_s=1, timeout_s=1.5)
        named = await made.broker.open_sandbox(ALICE, None, terms)
        paused = await made.broker.sandboxes.pause("alice", named.id)
        assert (paused.state, paused.expires_ms) == (State.PAUSED, None)
        assert made.runtime.sandboxes[0].paused
        assert (await made.broker.sandboxes.pause("alice", named.id)).state is State.PAUSED
        reply = await made.broker.execute(ALICE, call(named))
        assert (reply.code, "resume it first" in reply.message) == (ErrorCode.INVALID_REQUEST, True)
        with pytest.raises(WrongState):
            async with made.broker.operation(ALICE, named.id, "ports", {}):
                pass
        await asyncio.sleep(1.6)
        resumed = await made.broker.resume(ALICE, named.id)
        assert resumed.state is State.RUNNING
        assert resumed.expires_ms is not None
        assert 0 < resumed.expires_ms - resumed.changed_ms <= 1500
        assert (await made.broker.execute(ALICE, call(named))).status == "ok"
        assert actions(made) == [("create", ""), ("pause", ""), ("resume", "")]


async def test_it_is_not_paused_under_a_call(tmp_path: Path) -> None:
    held = Held()
    async with bench(tmp_path, MemoryRuntime(held)) as made:
        named = await made.broker.create(ALICE, None, 60)
        running = asyncio.create_task(made.broker.execute(ALICE, call(named)))
        await held.began.wait()
        with pytest.raises(WrongState):
            await made.broker.sandboxes.pause("alice", named.id)
        held.release.set()
        assert (await running).status == "ok"
        assert (await made.broker.execute(ALICE, call(named))).status == "ok"


async def test_on_timeout_pause_waits_for_the_last_call_and_takes_no_other(tmp_path: Path) -> None:
    held = Held()
    async with bench(tmp_path, MemoryRuntime(held)) as made:
        terms = Terms(timeout_s=1, on_timeout=OnTimeout.PAUSE)
        named = await made.broker.open_sandbox(ALICE, None, terms)
        running = asyncio.create_task(made.broker.execute(ALICE, call(named)))
        await asyncio.sleep(1.2)
        assert not made.runtime.sandboxes[0].paused
        refused = await made.broker.execute(ALICE, call(named))
        assert "time is over" in refused.message
        held.release.set()
        assert (await running).status == "ok"
        assert (await until(made, named, State.PAUSED)).reason == "timeout"
        resumed = await made.broker.resume(ALICE, named.id)  # with all of its time again
        assert resumed.expires_ms is not None
        assert 0 < resumed.expires_ms - resumed.changed_ms <= 1000
        assert (await made.broker.sandboxes.extend("alice", named.id, 60)).state is State.RUNNING
        assert (await made.broker.execute(ALICE, call(named))).status == "ok"


async def test_an_idle_one_is_paused_too_and_ended_where_it_cannot_be(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        terms = Terms(idle_timeout_s=0.05, on_timeout=OnTimeout.PAUSE)
        named = await made.broker.open_sandbox(ALICE, None, terms)
        assert (await until(made, named, State.PAUSED)).reason == "idle"
        made.runtime.fail_pause = SandboxError(ErrorCode.POLICY_UNENFORCEABLE, "no freezer")
        other = await made.broker.open_sandbox(ALICE, None, terms)
        assert "no freezer" in (await until(made, other, State.ENDED)).reason


async def test_a_pause_that_fails_leaves_it_running(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        named = await made.broker.create(ALICE, None, 60)
        made.runtime.fail_pause = SandboxError(ErrorCode.TIMEOUT, "too busy")
        with pytest.raises(SandboxError) as refused:
            await made.broker.sandboxes.pause("alice", named.id)
        assert refused.value.code is ErrorCode.TIMEOUT
        assert (await made.broker.execute(ALICE, call(named))).status == "ok"
        assert (await about(made, named)).state is State.RUNNING


async def test_a_paused_one_ends_when_nobody_ever_resumes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSED_S", 0.05)
    async with bench(tmp_path) as made:
        named = await made.broker.create(ALICE, None, 60)
        await made.broker.sandboxes.pause("alice", named.id)
        assert (await until(made, named, State.ENDED)).reason == "paused for too long"


async def test_one_that_died_is_interrupted_paused_or_not(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        for pausing in (False, True):
            named = await made.broker.create(ALICE, None, 60)
            if pausing:
                await made.broker.sandboxes.pause("alice", named.id)
            lost = SandboxError(ErrorCode.GUEST_LOST, "gone")
            made.runtime.sandboxes[-1].channel.lost = lost
            assert (await until(made, named, State.INTERRUPTED)).reason == "guest_lost: gone"


async def test_AP_06_every_change_of_a_foreign_sandbox_is_as_of_none(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        named = await made.broker.create(ALICE, None, 60)
        ended = await made.broker.create(ALICE, None, 60)
        await made.broker.destroy(ALICE, ended.id)
        words = set()
        boxes = made.broker.sandboxes
        for name in (named.id, ended.id, "sb_never"):
            attempts: list[Any] = [
                boxes.pause("bob", name),
                made.broker.resume(BOB, name),
                boxes.extend("bob", name, 5),
                boxes.about("bob", name),
                made.broker.destroy(BOB, name),
            ]
            for attempt in attempts:
                with pytest.raises(SandboxError) as refused:
                    await attempt
                assert refused.value.code is ErrorCode.NOT_FOUND
                words.add(refused.value.message)
        assert len(words) == 1
        assert not made.runtime.sandboxes[0].paused


async def test_the_intent_to_create_is_written_before_anything_starts(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        made.runtime.fail_start = SandboxError(ErrorCode.SANDBOX_CRASH, "no")
        with pytest.raises(SandboxError):
            await made.broker.create(ALICE, None, 60)
        await until_recorded(made, ("create", ""), ("end", "sandbox_crash"))
        (names,) = {(each["sandbox_id"], each["principal"]) for each in made.records("sandbox")}
        assert names[1] == "alice"


async def test_a_creator_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        for wait in range(8):
            creating = asyncio.create_task(made.broker.create(ALICE, None, 60))
            for _ in range(wait):
                await asyncio.sleep(0.001)
            creating.cancel()
            await asyncio.gather(creating, return_exceptions=True)
            if not creating.cancelled():
                await made.broker.destroy(ALICE, creating.result().id)
        await asyncio.sleep(0.05)
        assert made.runtime.living == []
        assert len(made.broker.sandboxes) == 0


@pytest.mark.parametrize(
    ("quota", "policy"),
    [
        (Quota(cpus=1.5), Policy(cpus=1.0)),
        (Quota(mem_mb=300), Policy(mem_mb=200)),
        (Quota(count=1), Policy()),
    ],
)
async def test_MT_05_what_one_principal_has_together_is_bounded_and_given_back(
    tmp_path: Path, quota: Quota, policy: Policy
) -> None:
    async with bench(tmp_path, quota=quota) as made:
        results = await asyncio.gather(
            *(made.broker.create(ALICE, policy, 60) for _ in range(3)), return_exceptions=True
        )
        named = [each for each in results if isinstance(each, NamedSandbox)]
        refused = [each for each in results if isinstance(each, SandboxError)]
        assert len(named) == 1
        assert {each.code for each in refused} == {ErrorCode.OVERLOADED}
        await made.broker.create(BOB, policy, 60)
        await made.broker.sandboxes.pause("alice", named[0].id)
        with pytest.raises(SandboxError):
            await made.broker.create(ALICE, policy, 60)
        await made.broker.destroy(ALICE, named[0].id)
        made.runtime.fail_start = SandboxError(ErrorCode.SANDBOX_CRASH, "no")
        with pytest.raises(SandboxError, match="no"):
            await made.broker.create(ALICE, policy, 60)
        made.runtime.fail_start = None
        await made.broker.create(ALICE, policy, 60)


async def test_a_quota_cannot_be_gone_round_by_asking_for_no_limit(tmp_path: Path) -> None:
    async with bench(tmp_path, quota=Quota(mem_mb=1000)) as made:
        caller = Caller("alice", Policy(tools=("*",)))
        with pytest.raises(SandboxError, match="mem_mb") as refused:
            await made.broker.create(caller, None, 60)
        assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE


async def test_its_environment_is_every_calls(tmp_path: Path) -> None:
    async with bench(tmp_path, environment={"SECRET": "daemon's"}) as made:
        terms = Terms(env={"COLOUR": "blue"})
        for policy in (None, Policy(timeout_ms=5000)):
            named = await made.broker.open_sandbox(ALICE, policy, terms)
            await made.broker.execute(ALICE, call(named))
            assert made.runtime.sandboxes[-1].calls[-1].env == {"COLOUR": "blue"}
        other = await made.broker.create(ALICE, None, 60)
        await made.broker.execute(ALICE, call(other))
        assert made.runtime.sandboxes[-1].calls[-1].env == {}


async def test_runtime_and_image_are_what_was_asked_or_it_is_refused(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        terms = Terms(runtime="memory", image="of-memory")
        assert (await made.broker.open_sandbox(ALICE, None, terms)).id
        for asked, word in ((Terms(runtime="jail"), "runtime"), (Terms(image="other"), "image")):
            with pytest.raises(SandboxError, match=word) as refused:
                await made.broker.open_sandbox(ALICE, None, asked)
            assert refused.value.code is ErrorCode.INVALID_REQUEST
        assert len(made.runtime.sandboxes) == 1


async def test_a_shut_down_daemon_says_that_its_sandboxes_were_interrupted(tmp_path: Path) -> None:
    async with bench(tmp_path) as made:
        named = await made.broker.create(ALICE, None, 60)
    async with bench(tmp_path) as made:
        record = await about(made, named)
        assert (record.state, record.reason) == (State.INTERRUPTED, module.SHUT_DOWN)
        with pytest.raises(SandboxError) as gone:
            await made.broker.execute(ALICE, call(named))
        assert gone.value.code is ErrorCode.NOT_FOUND
        assert made.runtime.sandboxes == []
