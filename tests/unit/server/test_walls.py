"""Which runtime a call goes to: the weakest that satisfies it, or none."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.audit.log import AuditLog
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.base import Probe
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.server.admission import Admission
from mas_sandbox.server.broker import Broker
from mas_sandbox.server.calls import Caller, ToolReply, ToolRequest
from mas_sandbox.server.catalog import Catalog
from mas_sandbox.server.plan import Planner
from mas_sandbox.server.registry.store import Store
from mas_sandbox.server.walls import Unprobed, Wall, Walls
from mas_sandbox.tools.builtin import BUILTIN
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

SUM = ToolRequest("calculator", {"expression": "1+1"})
NOTHING: frozenset[Control] = frozenset()


def made(name: str, isolation: Isolation, *lacks: Control) -> MemoryRuntime:
    runtime = MemoryRuntime(controls=frozenset(Control) - set(lacks))
    runtime.name, runtime.isolation = name, isolation
    return runtime


def standing(runtime: MemoryRuntime) -> Wall:
    return Wall.standing(Pool(runtime, 0), asyncio.run(runtime.probe()))


JAIL = standing(made("jail", Isolation.PROCESS, Control.DISK_FILES))
GVISOR = standing(made("gvisor", Isolation.KERNEL, Control.PATHS))
MACHINE = standing(made("microvm", Isolation.VM))


@pytest.mark.parametrize(
    ("isolation", "controls", "expected"),
    [
        (None, NOTHING, JAIL),
        (Isolation.PROCESS, NOTHING, JAIL),
        (Isolation.KERNEL, NOTHING, GVISOR),
        (Isolation.VM, NOTHING, MACHINE),
        (Isolation.PROCESS, frozenset({Control.DISK_FILES}), GVISOR),
        (Isolation.KERNEL, frozenset({Control.PATHS}), MACHINE),
    ],
)
def test_a_call_goes_to_the_weakest_wall_that_holds_all_it_asks_for(
    isolation: Isolation | None, controls: frozenset[Control], expected: Wall
) -> None:
    assert Walls([MACHINE, JAIL, GVISOR]).choose(isolation, controls) is expected


def test_nothing_weaker_than_the_default_is_used() -> None:
    assert Walls([JAIL, GVISOR, MACHINE], GVISOR).choose(None, NOTHING) is GVISOR


def test_a_refusal_says_what_each_wall_lacks() -> None:
    both = frozenset({Control.PATHS, Control.DISK_FILES})
    with pytest.raises(SandboxError) as caught:
        Walls([JAIL, GVISOR]).choose(None, both)
    assert caught.value.code is ErrorCode.POLICY_UNENFORCEABLE
    assert "jail cannot enforce disk_files" in caught.value.message
    assert "gvisor cannot enforce paths" in caught.value.message
    with pytest.raises(SandboxError, match="isolation vm at least; runtime jail gives process"):
        Walls([JAIL]).choose(Isolation.VM, NOTHING)


def test_a_stronger_wall_is_built_and_tried_only_when_a_call_asks_for_it(tmp_path: Path) -> None:
    built: list[str] = []

    def build() -> MemoryRuntime:
        built.append("microvm")
        return made("microvm", Isolation.VM)

    async def main() -> None:
        jail = made("jail", Isolation.PROCESS)
        machine = Wall("microvm", Isolation.VM, build)
        walls = Walls([Wall.standing(Pool(jail, 0), await jail.probe()), machine])
        audit = AuditLog.open(tmp_path)
        broker = Broker(
            walls=walls,
            planner=Planner(walls, Catalog(BUILTIN), {}),
            admission=Admission(4, 4),
            audit=audit,
            store=Store(tmp_path, audit.instance, audit.is_alive),
        )
        operator = Policy.model_validate({"tools": ["*"], "tool_isolation": {"bash": "vm"}})
        try:
            replies = await _replies(broker, operator, [SUM])
            assert (replies[0].isolation, built) == (Isolation.PROCESS, [])
            with pytest.raises(Unprobed):
                machine.refuses(Isolation.VM, NOTHING)
            bash = ToolRequest("bash", {"command": "true"})
            replies = await _replies(broker, operator, [bash, bash, SUM])
            assert [reply.isolation for reply in replies] == [
                Isolation.VM,
                Isolation.VM,
                Isolation.PROCESS,
            ]
            assert built == ["microvm"]
            asked = ToolRequest(
                "calculator", {"expression": "1"}, Policy(min_isolation=Isolation.VM)
            )
            assert (await _replies(broker, None, [asked]))[0].isolation is Isolation.VM
        finally:
            await broker.close()
        assert jail.closed

    asyncio.run(main())


def test_a_call_in_a_sandbox_whose_wall_is_too_weak_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        jail, machine = made("jail", Isolation.PROCESS), made("microvm", Isolation.VM)
        walls = Walls([Wall.standing(Pool(one, 0), await one.probe()) for one in (jail, machine)])
        audit = AuditLog.open(tmp_path)
        broker = Broker(
            walls=walls,
            planner=Planner(walls, Catalog(BUILTIN), {}),
            admission=Admission(4, 4),
            audit=audit,
            store=Store(tmp_path, audit.instance, audit.is_alive),
        )
        alice = Caller("alice")
        try:
            weak = await broker.create(alice, None, 60)
            strong = await broker.create(alice, Policy(min_isolation=Isolation.VM), 60)
            asked = Policy(min_isolation=Isolation.VM)
            for named, code in ((weak, ErrorCode.POLICY_UNENFORCEABLE), (strong, None)):
                request = ToolRequest("calculator", {"expression": "1"}, asked, named.id)
                assert (await broker.execute(alice, request)).code is code
        finally:
            await broker.close()

    asyncio.run(main())


def test_a_call_that_takes_paths_away_needs_walls_that_hold_paths_inside(tmp_path: Path) -> None:
    async def main() -> None:
        gvisor = made("gvisor", Isolation.KERNEL, Control.PATHS)
        walls = Walls([Wall.standing(Pool(gvisor, 0), await gvisor.probe())])
        audit = AuditLog.open(tmp_path)
        broker = Broker(
            walls=walls,
            planner=Planner(walls, Catalog(BUILTIN), {}),
            admission=Admission(4, 4),
            audit=audit,
            store=Store(tmp_path, audit.instance, audit.is_alive),
        )
        alice = Caller("alice")
        less = Policy.model_validate({"paths": [{"path": "/workspace/a", "mode": "rw"}]})
        try:
            named = await broker.create(alice, None, 60)
            for asked, code in ((None, None), (less, ErrorCode.POLICY_UNENFORCEABLE)):
                request = ToolRequest("calculator", {"expression": "1"}, asked, named.id)
                reply = await broker.execute(alice, request)
                assert reply.code is code
            assert "paths" in reply.message
        finally:
            await broker.close()

    asyncio.run(main())


def test_a_runtime_that_fails_its_probe_refuses_with_its_reason() -> None:
    runtime = made("microvm", Isolation.VM)
    wall = Wall.standing(Pool(runtime, 0), Probe(False, reason="no image", mend="build one"))
    with pytest.raises(SandboxError, match="microvm: no image; to mend it: build one"):
        Walls([JAIL, wall]).choose(Isolation.VM, NOTHING)


async def _replies(
    broker: Broker, operator: Policy | None, requests: Sequence[ToolRequest]
) -> list[ToolReply]:
    caller = Caller("alice", operator)
    return [await broker.execute(caller, request) for request in requests]
