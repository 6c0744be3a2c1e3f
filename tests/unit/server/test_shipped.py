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
from mas_sandbox.tools.manifest import Capability

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
    "http_request": {"url": "http://a.example/"},
    "fetch": {"url": "http://a.example/"},
    "web_search": {"query": "a"},
}
DENIED = {tool.name for tool in BUILTIN if Capability.NETWORK in tool.capabilities}
each_shipped_policy = pytest.mark.parametrize(
    ("runtime", "policy"), [("jail", DEFAULT_POLICY), ("local", LOCAL_POLICY)]
)


def planner(name: str) -> Planner:
    runtime = MemoryRuntime()
    runtime.name = name
    wall = Wall.standing(Pool(runtime, 0), asyncio.run(runtime.probe()))
    return Planner(Walls([wall]), Catalog(BUILTIN), {"HOME": "/root"}, EXTENSIONS)


def facts(plan: Plan) -> tuple[object, ...]:
    return (
        plan.ruling,
        plan.call.encode(),
        plan.built.spec,
        plan.built.reach,
        plan.controls,
        plan.max_concurrent,
    )


@each_shipped_policy
@pytest.mark.parametrize("tool", sorted(ARGS.keys() - DENIED))
def test_a_call_without_any_policy_is_planned_as_by_the_shipped_one(
    runtime: str, policy: Policy, tool: str
) -> None:
    request = ToolRequest(tool, ARGS[tool])
    made = planner(runtime)
    assert facts(made.call(None, request, None)) == facts(made.call(policy, request, None))


@each_shipped_policy
@pytest.mark.parametrize("tool", sorted(DENIED))
def test_what_the_shipped_policy_denies_is_denied_the_short_way_too(
    runtime: str, policy: Policy, tool: str
) -> None:
    for given in (None, policy):
        with pytest.raises(Refused, match="network"):
            planner(runtime).call(given, ToolRequest(tool, ARGS[tool]), None)
