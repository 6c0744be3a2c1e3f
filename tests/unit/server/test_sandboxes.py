"""Named sandboxes: whose they are, how long they live."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server.calls import Caller, ToolRequest
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

ALICE, BOB = Caller("alice"), Caller("bob")


def call(sandbox_id: str, policy: Policy | None = None) -> ToolRequest:
    return ToolRequest("calculator", {"expression": "1"}, policy, sandbox_id)


def test_calls_by_name_share_one_sandbox_until_it_is_destroyed(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as made:
            named = await made.broker.create(ALICE, None, 60)
            await asyncio.gather(*(made.broker.execute(ALICE, call(named.id)) for _ in range(5)))
            assert [len(each.calls) for each in made.runtime.sandboxes] == [5]
            await made.broker.destroy(ALICE, named.id)
            await asyncio.sleep(0.01)
            assert made.runtime.living == []
            with pytest.raises(SandboxError) as gone:
                await made.broker.execute(ALICE, call(named.id))
            assert gone.value.code is ErrorCode.NOT_FOUND

    asyncio.run(main())


def test_someone_elses_sandbox_is_as_absent_as_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as made:
            named = await made.broker.create(ALICE, None, 60)
            words = set()
            for name in (named.id, "sb_never", named.id[:-1], named.id.swapcase()):
                with pytest.raises(SandboxError) as caught:
                    await made.broker.execute(BOB, call(name))
                words.add(str(caught.value))
                with pytest.raises(SandboxError) as caught:
                    await made.broker.destroy(BOB, name)
                words.add(str(caught.value))
            assert len(words) == 1
            assert made.records("intent") == []

    asyncio.run(main())


def test_names_cannot_be_guessed(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as made:
            names = {(await made.broker.create(ALICE, None, 60)).id for _ in range(20)}
            assert len(names) == 20
            assert all(len(name) >= 32 for name in names)

    asyncio.run(main())


def test_one_principal_has_only_so_many_and_others_still_get_theirs(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path, max_sandboxes=2) as made:
            results = await asyncio.gather(
                *(made.broker.create(ALICE, None, 60) for _ in range(3)), return_exceptions=True
            )
            refused = [each for each in results if isinstance(each, SandboxError)]
            assert [each.code for each in refused] == [ErrorCode.OVERLOADED]
            await made.broker.create(BOB, None, 60)

    asyncio.run(main())


def test_an_idle_sandbox_ends_and_one_in_use_does_not(tmp_path: Path) -> None:
    release = asyncio.Event()

    async def wait(call: Call) -> CallOutcome:
        await release.wait()
        raise SandboxError(ErrorCode.GUEST_LOST, "over")

    async def main() -> None:
        async with bench(tmp_path, MemoryRuntime(wait)) as made:
            idle = await made.broker.create(ALICE, None, 0.1)
            busy = await made.broker.create(ALICE, None, 0.1)
            running = asyncio.create_task(made.broker.execute(ALICE, call(busy.id)))
            async with asyncio.timeout(5):
                while len(made.broker.sandboxes) > 1:
                    await asyncio.sleep(0.05)
            with pytest.raises(SandboxError):
                made.broker.sandboxes.find("alice", idle.id)
            assert made.broker.sandboxes.find("alice", busy.id) is busy
            release.set()
            await running

    asyncio.run(main())


def test_a_dead_sandbox_is_told_of_once_and_then_absent(tmp_path: Path) -> None:
    async def die(call: Call) -> CallOutcome:
        raise SandboxError(ErrorCode.GUEST_LOST, "the toolrunner is gone")

    async def main() -> None:
        async with bench(tmp_path, MemoryRuntime(die)) as made:
            named = await made.broker.create(ALICE, None, 60)
            reply = await made.broker.execute(ALICE, call(named.id))
            assert reply.code is ErrorCode.GUEST_LOST
            with pytest.raises(SandboxError) as gone:
                await made.broker.execute(ALICE, call(named.id))
            assert gone.value.code is ErrorCode.NOT_FOUND

    asyncio.run(main())


def test_a_sandboxs_policy_binds_every_call_in_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as made:
            named = await made.broker.create(ALICE, Policy(tools=("bash",)), 60)
            reply = await made.broker.execute(ALICE, call(named.id))
            assert reply.code is ErrorCode.POLICY_DENIED
            assert "sandbox/tools" in reply.message

    asyncio.run(main())


def test_a_call_cannot_change_the_walls_it_runs_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with bench(tmp_path) as made:
            named = await made.broker.create(ALICE, Policy(mem_mb=256), 60)
            assert made.runtime.sandboxes[0].spec.mem_mb == 256
            reply = await made.broker.execute(ALICE, call(named.id, Policy(mem_mb=128)))
            assert reply.code is ErrorCode.POLICY_UNENFORCEABLE
            assert "mem_mb is fixed" in reply.message
            reply = await made.broker.execute(ALICE, call(named.id, Policy(timeout_ms=5)))
            assert reply.status == "ok"

    asyncio.run(main())


def test_creating_may_only_narrow(tmp_path: Path) -> None:
    async def use(made: Bench, policy: Policy, code: ErrorCode) -> None:
        with pytest.raises(SandboxError) as caught:
            await made.broker.create(ALICE, policy, 60)
        assert caught.value.code is code
        assert made.runtime.sandboxes == []

    async def main() -> None:
        async with bench(tmp_path) as made:
            await use(made, Policy(mem_mb=100_000), ErrorCode.POLICY_DENIED)
            await use(
                made,
                Policy.model_validate({"network": {"hosts": ["example.org"]}}),
                ErrorCode.POLICY_DENIED,
            )

    asyncio.run(main())
