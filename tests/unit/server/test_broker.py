"""Decide, record, run, record: and every way in which that can go wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.audit.storage import Storage
from mas_sandbox.audit.verify import verify
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server.admission import Overloaded
from mas_sandbox.server.broker import Draining
from mas_sandbox.server.calls import Caller, ToolReply, ToolRequest
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation
from mas_sandbox.wire.messages import Call

ALICE = Caller("alice")
SUM = ToolRequest("calculator", {"expression": "1+1"})


def bash(command: str, **changes: Any) -> ToolRequest:
    return ToolRequest("bash", {"command": command}, **changes)


def run(
    directory: Path,
    use: Callable[[Bench], Coroutine[Any, Any, None]],
    runtime: MemoryRuntime | None = None,
    **options: Any,
) -> None:
    """Run `use` on a broker; afterwards no sandbox is left, and each intent has one outcome."""

    async def main() -> None:
        async with bench(directory, runtime, **options) as made:
            await use(made)
        assert made.runtime.living == []
        assert made.runtime.closed
        intents = [record["call_id"] for record in made.records("intent")]
        outcomes = [record["call_id"] for record in made.records("outcome")]
        assert sorted(intents) == sorted(outcomes)
        assert len(set(intents)) == len(intents)
        assert verify(directory / "audit.jsonl").problems == []

    asyncio.run(main())


def test_an_allowed_call_is_recorded_before_and_after_it_runs(tmp_path: Path) -> None:
    seen: list[str] = []

    async def look(call: Call) -> CallOutcome:
        seen.extend(line.split('"kind":"')[1].split('"')[0] for line in lines(tmp_path))
        return returned(2)

    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert (reply.status, reply.result, reply.isolation) == ("ok", 2, Isolation.VM)
        assert reply.enforced == tuple(sorted(Control))
        assert seen[-1] == "intent"
        assert made.records("outcome")[0]["status"] == "ok"
        assert made.records("intent")[0]["decision"]["rule"] == "operator/tools"

    run(tmp_path, use, MemoryRuntime(look))


def lines(directory: Path) -> list[str]:
    return (directory / "audit.jsonl").read_text().splitlines()


@pytest.mark.parametrize(
    ("asked", "request_", "code", "words"),
    [
        (None, ToolRequest("calculater", {}), ErrorCode.NOT_FOUND, "near names: calculator"),
        (None, ToolRequest("calculator", {}), ErrorCode.INVALID_REQUEST, "expression"),
        (
            Policy(tools=("calculator",)),
            bash("true"),
            ErrorCode.POLICY_DENIED,
            "operator/tools",
        ),
        (
            None,
            bash("true", policy=Policy(capabilities=("file",))),
            ErrorCode.POLICY_DENIED,
            "call/capabilities",
        ),
        (
            None,
            bash("true", policy=Policy(timeout_ms=600_000)),
            ErrorCode.POLICY_DENIED,
            "timeout_ms",
        ),
        (
            Policy.model_validate(
                {
                    "tools": ["*"],
                    "rules": [{"name": "careful", "action": "ask", "reason": "a person looks"}],
                }
            ),
            SUM,
            ErrorCode.APPROVAL_REQUIRED,
            "operator/careful: a person looks",
        ),
        (
            None,
            bash("true", policy=Policy.model_validate({"network": {"hosts": ["a.example"]}})),
            ErrorCode.POLICY_DENIED,
            "network.hosts",
        ),
    ],
)
def test_a_refused_call_never_runs_and_is_recorded(
    tmp_path: Path, asked: Policy | None, request_: ToolRequest, code: ErrorCode, words: str
) -> None:
    async def use(made: Bench) -> None:
        reply = await made.broker.execute(Caller("alice", asked), request_)
        assert (reply.status, reply.code) == ("error", code)
        assert words in reply.message
        assert made.runtime.sandboxes == []
        assert made.records("intent")[0]["decision"]["action"] in ("deny", "ask")
        assert made.records("outcome")[0]["code"] == str(code)

    run(tmp_path, use)


def test_a_control_that_cannot_be_enforced_is_named_with_its_mend(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert reply.code is ErrorCode.POLICY_UNENFORCEABLE
        assert "memory, pids" in reply.message
        assert "mend memory" in reply.message
        assert made.runtime.sandboxes == []

    lacking = frozenset(Control) - {Control.MEMORY, Control.PIDS}
    run(tmp_path, use, MemoryRuntime(controls=lacking))


def test_weaker_isolation_than_the_policy_asks_for_is_refused(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert reply.code is ErrorCode.POLICY_UNENFORCEABLE
        assert "isolation process" in reply.message

    run(tmp_path, use, MemoryRuntime(isolation=Isolation.NONE))


def test_a_sandbox_that_came_up_without_a_control_runs_nothing(tmp_path: Path) -> None:
    runtime = MemoryRuntime()
    runtime.sandbox_controls = frozenset(Control) - {Control.MEMORY}

    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert reply.code is ErrorCode.POLICY_UNENFORCEABLE
        assert "memory" in reply.message
        assert runtime.sandboxes[0].calls == []

    run(tmp_path, use, runtime)


def test_each_call_has_a_sandbox_of_its_own(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        await asyncio.gather(*(made.broker.execute(ALICE, SUM) for _ in range(10)))
        assert [len(sandbox.calls) for sandbox in made.runtime.sandboxes] == [1] * 10

    run(tmp_path, use)


def test_only_the_variables_that_a_policy_lists_go_in(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        policy = Policy(tools=("*",), env=("GIVEN", "UNSET"))
        await made.broker.execute(Caller("alice", policy), SUM)
        assert made.runtime.sandboxes[0].calls[0].env == {"GIVEN": "1"}

    run(tmp_path, use, environment={"GIVEN": "1", "SECRET": "2"})


def test_a_program_that_ran_is_ok_whatever_its_exit_code(tmp_path: Path) -> None:
    async def fail(call: Call) -> CallOutcome:
        return returned(has_value=False, stdout=b"out\xff", stderr=b"err", exit_code=3)

    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, bash("false"))
        assert (reply.status, reply.exit_code) == ("ok", 3)
        assert (reply.result, reply.stderr) == ("out\ufffd", "err")

    run(tmp_path, use, MemoryRuntime(fail))


def test_a_failed_start_is_the_calls_outcome(tmp_path: Path) -> None:
    runtime = MemoryRuntime()
    runtime.fail_start = SandboxError(ErrorCode.SANDBOX_CRASH, "did not come up")

    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert reply.code is ErrorCode.SANDBOX_CRASH
        runtime.fail_start = None
        assert (await made.broker.execute(ALICE, SUM)).status == "ok"

    run(tmp_path, use, runtime)


def test_a_fault_of_ours_is_internal_and_recorded(tmp_path: Path) -> None:
    async def fault(call: Call) -> CallOutcome:
        raise ZeroDivisionError("secret detail")

    async def use(made: Bench) -> None:
        reply = await made.broker.execute(ALICE, SUM)
        assert reply.code is ErrorCode.INTERNAL
        assert "secret detail" not in reply.message
        assert made.broker.admission.running == 0

    run(tmp_path, use, MemoryRuntime(fault))


async def forever(call: Call) -> CallOutcome:
    await asyncio.Event().wait()
    raise AssertionError


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def test_a_caller_that_goes_away_ends_its_call(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        task = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes and made.runtime.sandboxes[0].calls))
        task.cancel()
        task.cancel()  # however often
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: bool(made.records("outcome")))
        assert made.records("outcome")[0]["code"] == "interrupted"
        await until(lambda: not made.runtime.living)
        await until(lambda: made.broker.admission.running == 0)

    run(tmp_path, use, MemoryRuntime(forever))


def test_a_caller_that_goes_away_at_any_moment_leaves_one_outcome(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        for turns in range(40):
            task = asyncio.create_task(made.broker.execute(ALICE, SUM))
            for _ in range(turns):
                await asyncio.sleep(0.0002)
            task.cancel()
            await asyncio.wait([task])
        await until(lambda: made.broker.admission.running == 0)

    run(tmp_path, use)


class SlowDisk(Storage):
    """A disk that takes its time over every sync."""

    def sync(self, descriptor: int) -> None:
        time.sleep(0.05)
        super().sync(descriptor)


def test_neither_a_cancel_nor_a_second_one_cuts_the_records_short(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        task = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await asyncio.sleep(0.01)  # the intent is being written
        task.cancel()
        await asyncio.sleep(0.01)
        made.broker.interrupt()
        await until(lambda: bool(made.records("outcome")))
        assert made.records("outcome")[0]["code"] == "interrupted"
        assert made.runtime.sandboxes == []

    run(tmp_path, use, storage=SlowDisk())


def test_a_call_that_has_run_says_so_though_interrupted_while_recorded(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        task = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes and made.runtime.sandboxes[0].stopped))
        made.broker.interrupt()
        assert (await task).status == "ok"

    run(tmp_path, use, storage=SlowDisk())


def test_a_call_cut_off_before_its_turn_never_became_one(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        first = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes))
        second = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: made.broker.admission.waiting == 1)
        made.broker.interrupt()
        with pytest.raises(SandboxError, match="no effects"):
            await second
        assert (await first).code is ErrorCode.INTERRUPTED
        assert len(made.records("intent")) == 1

    run(tmp_path, use, MemoryRuntime(forever), max_running=1)


def test_beyond_the_bound_calls_are_overloaded_and_not_recorded(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        first = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes))
        with pytest.raises(Overloaded):
            await made.broker.execute(ALICE, SUM)
        made.broker.interrupt()
        await first
        assert len(made.records("intent")) == 1

    run(tmp_path, use, MemoryRuntime(forever), max_running=1, max_queue=0)


class FullDisk(Storage):
    """A disk that is full once `full` is set."""

    full = False

    def write(self, descriptor: int, data: bytes) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().write(descriptor, data)


def test_without_an_audit_log_nothing_runs(tmp_path: Path) -> None:
    async def main() -> None:
        disk = FullDisk()
        async with bench(tmp_path, storage=disk) as made:
            disk.full = True
            for _ in range(2):
                with pytest.raises(SandboxError, match="audit log") as caught:
                    await made.broker.execute(ALICE, SUM)
                assert caught.value.code is ErrorCode.INTERNAL
            assert made.runtime.sandboxes == []

    asyncio.run(main())


def test_draining_lets_calls_finish_and_takes_no_more(tmp_path: Path) -> None:
    done = asyncio.Event()

    async def wait(call: Call) -> CallOutcome:
        await done.wait()
        return returned(1)

    async def use(made: Bench) -> None:
        running = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes))
        drained = asyncio.create_task(made.broker.drain(5))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await made.broker.execute(ALICE, SUM)
        with pytest.raises(Draining):
            await made.broker.create(ALICE, None, 60)
        done.set()
        assert (await running).status == "ok"
        await drained

    run(tmp_path, use, MemoryRuntime(wait))


def test_a_drain_that_takes_too_long_interrupts(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        running = asyncio.create_task(made.broker.execute(ALICE, SUM))
        await until(lambda: bool(made.runtime.sandboxes))
        await made.broker.drain(0.01)
        reply: ToolReply = await running
        assert reply.code is ErrorCode.INTERRUPTED

    run(tmp_path, use, MemoryRuntime(forever))


def test_a_thousand_callers_each_get_their_own_answer(tmp_path: Path) -> None:
    async def use(made: Bench) -> None:
        replies = await asyncio.gather(
            *(
                made.broker.execute(ALICE, ToolRequest("calculator", {"expression": str(n)}))
                for n in range(1000)
            )
        )
        assert [reply.result["expression"] for reply in replies] == [str(n) for n in range(1000)]

    run(tmp_path, use, max_queue=1000)


def test_no_operation_in_a_sandbox_that_came_up_without_a_control(tmp_path: Path) -> None:
    runtime = MemoryRuntime()
    runtime.sandbox_controls = frozenset(Control) - {Control.MEMORY}

    async def use(made: Bench) -> None:
        named = await made.broker.create(ALICE, None, 60)
        with pytest.raises(SandboxError, match="without memory"):
            async with made.broker.operation(ALICE, named.id, "process", {"argv": ["true"]}):
                raise AssertionError("it was let in")
        assert made.records("outcome")[0]["code"] == "policy_unenforceable"

    run(tmp_path, use, runtime)
