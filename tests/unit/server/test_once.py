"""What is asked with an idempotency key is done once, and answered as often as it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server import once as module
from mas_sandbox.server.calls import Caller, ToolRequest
from mas_sandbox.server.once import Given, Keyed, execute_once
from mas_sandbox.server.registry import answers
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

ALICE = Caller("alice")


class Counting:
    """A tool that counts how often it runs, and ends when it is let."""

    def __init__(self) -> None:
        self.runs = 0
        self.may_end = asyncio.Event()

    async def run(self, call: Call) -> CallOutcome:
        self.runs += 1
        await self.may_end.wait()
        return returned(f"run {self.runs}")

    async def begun(self) -> None:
        async with asyncio.timeout(10):
            while not self.runs:
                await asyncio.sleep(0.001)


def once(
    made: Bench, expression: str = "1", key: str = "k", caller: Caller = ALICE, **more: Any
) -> Coroutine[Any, Any, Given]:
    request = ToolRequest("calculator", {"expression": expression}, **more)
    return execute_once(made.broker, caller, request, Keyed.of(key, "execute", expression))


def play(
    directory: Path, scenario: Callable[[Bench, Counting], Coroutine[Any, Any, None]], **more: Any
) -> None:
    async def main() -> None:
        tool = Counting()
        async with bench(directory, MemoryRuntime(tool.run), **more) as made:
            await scenario(made, tool)

    asyncio.run(main())


def test_many_at_once_run_once_and_get_one_answer(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        asking = [asyncio.create_task(once(made)) for _ in range(20)]
        await tool.begun()
        with pytest.raises(SandboxError) as refused:
            await once(made, "2")
        assert refused.value.code is ErrorCode.IDEMPOTENCY_CONFLICT
        tool.may_end.set()
        found = [*await asyncio.gather(*asking), await once(made)]
        assert tool.runs == 1
        assert sorted(each.replayed for each in found) == [False] + [True] * 20
        assert {str(each.body | {"replayed": None}) for each in found} == {
            str(found[0].body | {"replayed": None})
        }
        with pytest.raises(SandboxError, match="another request"):
            await once(made, "2")
        assert (await once(made, "2", caller=Caller("bob"))).body["result"] == "run 2"
        assert [each["trace"] for each in made.records("intent")] == [{"idempotency_key": "k"}] * 2

    play(tmp_path, scenario)


def test_a_caller_that_goes_away_finds_the_answer_when_it_comes_back(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        asking = asyncio.create_task(once(made))
        await tool.begun()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        tool.may_end.set()
        found = await once(made)
        assert (found.body["result"], found.replayed, tool.runs) == ("run 1", True, 1)

    play(tmp_path, scenario)


def test_what_was_refused_may_be_asked_again(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        denied = await once(made, policy=Policy(tools=()))
        assert denied.body["error"]["code"] == "policy_denied"
        asking = asyncio.create_task(once(made, key="other"))
        await tool.begun()
        with pytest.raises(SandboxError) as refused:
            await once(made)
        assert refused.value.code is ErrorCode.OVERLOADED
        made.broker.draining = True
        with pytest.raises(SandboxError, match="shutting down"):
            await once(made)
        made.broker.draining = False
        tool.may_end.set()
        await asking
        found = await once(made)
        assert (found.body["result"], found.replayed) == ("run 2", False)

    play(tmp_path, scenario, max_running=1, max_queue=0)


def test_one_principal_waits_for_so_many_and_others_still_get_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_AT_ONCE", 2)

    async def scenario(made: Bench, tool: Counting) -> None:
        asking = [asyncio.create_task(once(made, key=key)) for key in "ab"]
        await tool.begun()
        with pytest.raises(SandboxError) as refused:
            await once(made, key="c")
        assert refused.value.code is ErrorCode.OVERLOADED
        asking.append(asyncio.create_task(once(made, key="c", caller=Caller("bob"))))
        tool.may_end.set()
        assert [each.body["status"] for each in await asyncio.gather(*asking)] == ["ok"] * 3

    play(tmp_path, scenario)


def test_a_sandbox_that_does_not_start_leaves_the_key_new(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        tool.may_end.set()
        made.runtime.fail_start = SandboxError(ErrorCode.SANDBOX_CRASH, "no")
        assert (await once(made)).body["error"]["code"] == "sandbox_crash"
        made.runtime.fail_start = None
        assert (await once(made)).body["result"] == "run 1"

    play(tmp_path, scenario)


def test_an_answer_that_is_not_kept_is_told_and_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        tool.may_end.set()
        monkeypatch.setattr(answers, "MOST_OF_ONE", 10)
        assert (await once(made)).body["result"] == "run 1"
        again = (await once(made)).body
        assert (again["status"], again["error"]["code"]) == ("error", "result_not_kept")
        assert (again["replayed"], tool.runs) == (True, 1)

    play(tmp_path, scenario)


def test_an_answer_that_cannot_be_written_is_given_and_then_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(*_: Any) -> None:
        raise SandboxError(ErrorCode.INTERNAL, "the disk is full")

    async def scenario(made: Bench, tool: Counting) -> None:
        tool.may_end.set()
        monkeypatch.setattr(answers.Answers, "finish", fails)
        assert (await once(made)).body["result"] == "run 1"
        assert (await once(made)).body["error"]["code"] == "interrupted"
        assert tool.runs == 1

    play(tmp_path, scenario)


def test_what_runs_when_the_daemon_ends_is_interrupted_for_the_next(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        asking = asyncio.create_task(once(made))
        await tool.begun()
        await made.broker.close()
        assert (await asking).body["error"]["code"] == "interrupted"

    async def after(made: Bench, tool: Counting) -> None:
        assert (await once(made)).body["error"]["code"] == "interrupted"
        assert tool.runs == 0

    play(tmp_path, scenario)
    play(tmp_path, after)


def test_two_daemons_of_one_state_do_it_once(tmp_path: Path) -> None:
    async def scenario(made: Bench, tool: Counting) -> None:
        async with bench(tmp_path, MemoryRuntime(tool.run)) as other:
            asking = asyncio.create_task(once(made))
            await tool.begun()
            also = asyncio.create_task(once(other))
            await asyncio.sleep(0)
            tool.may_end.set()
            found = await asyncio.gather(asking, also)
        assert [each.body["result"] for each in found] == ["run 1", "run 1"]
        assert [each.replayed for each in found] == [False, True]

    play(tmp_path, scenario)
