"""The short way and the long way come to the same plan."""

from __future__ import annotations

import asyncio

import pytest

from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.policy.default import DEFAULT_POLICY, LOCAL_POLICY
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.server.calls import ToolRequest
from mas_sandbox.server.catalog import Catalog
from mas_sandbox.server.plan import Plan, Planner, Refused
from mas_sandbox.server.walls import Wall, Walls
from mas_sandbox.tools.builtin import BUILTIN
from mas_sandbox.tools.manifest import Capability, ToolSpec

EXTENSIONS = (("mine.py", "def f(): ..."),)
ARGS = {
    "calculator": {"expression": "1"},
    "file_system": {"action": "list", "path": "."},
    "bash": {"command": "true"},
    "python": {"code": "1"},
    "read_file": {"path": "a"},
    "write_file": {"path": "a", "content": ""},
    "edit_file": {"path": "a", "old_text": "b", "new_text": "c"},
    "list_dir": {},
    "glob": {"pattern": "*"},
    "grep": {"pattern": "a"},
}


def planner(name: str, *more: ToolSpec) -> Planner:
    runtime = MemoryRuntime()
    runtime.name = name
    wall = Wall.standing(Pool(runtime, 0), asyncio.run(runtime.probe()))
    return Planner(Walls([wall]), Catalog(BUILTIN + more), {"HOME": "/root"}, EXTENSIONS)


def facts(plan: Plan) -> tuple[object, ...]:
    return (
        plan.ruling,
        plan.call.encode(),
        plan.built.spec,
        plan.built.reach,
        plan.controls,
        plan.max_concurrent,
    )


@pytest.mark.parametrize(("runtime", "policy"), [("jail", DEFAULT_POLICY), ("local", LOCAL_POLICY)])
@pytest.mark.parametrize("tool", [tool.name for tool in BUILTIN])
def test_a_call_without_any_policy_is_planned_as_by_the_shipped_one(
    runtime: str, policy: Policy, tool: str
) -> None:
    request = ToolRequest(tool, ARGS[tool])
    made = planner(runtime)
    assert facts(made.call(None, request, None)) == facts(made.call(policy, request, None))


def test_what_the_shipped_policy_denies_is_denied_the_short_way_too() -> None:
    reaching = ToolSpec("fetch", "", {"type": "object"}, frozenset({Capability.NETWORK}))
    with pytest.raises(Refused, match="network"):
        planner("jail", reaching).call(None, ToolRequest("fetch", {}), None)
