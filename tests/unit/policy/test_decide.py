"""Deny beats ask beats allow, each layer must allow, and doubt ends on the safe side."""

from __future__ import annotations

import timeit
from typing import Any

import pytest

from mas_sandbox.policy.decide import Action, Decision, compile_policy
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.model import Policy, parse_policy
from mas_sandbox.wire.errors import SandboxError

ALL = Policy(tools=("*",))


def policy(*rules: dict[str, Any], **fields: Any) -> Policy:
    return parse_policy(fields | {"rules": [{"reason": "because"} | rule for rule in rules]})


def decide(
    *layers: Policy, tool: str = "bash", needs: tuple[str, ...] = (), **args: Any
) -> Decision:
    return compile_policy(layers).decide(tool, frozenset(needs), args)


def verdict(when: dict[str, Any], args: dict[str, Any], action: str) -> Action:
    """How a single rule for a tool decides."""
    layer = policy({"name": "r", "action": action, "when": when}, tools=["bash"])
    return compile_policy([layer]).decide("bash", frozenset(), args).action


def test_no_rule_means_deny() -> None:
    for layers in ([], [Policy()], [Policy(), Policy(), Policy()]):
        assert decide(*layers).action is Action.DENY


def test_a_caller_cannot_grant_what_the_operator_never_mentioned() -> None:
    assert decide(Policy(), Policy(), ALL).action is Action.DENY
    for action in ("allow", "ask"):
        naming = policy({"action": action, "tools": "bash"})
        assert decide(Policy(), Policy(), naming).action is Action.DENY


def test_a_listed_tool_is_allowed_and_another_is_not() -> None:
    layer = Policy(tools=("bash",))
    assert decide(layer) == Decision(Action.ALLOW, "operator/tools", "the tool is listed")
    refused = decide(layer, tool="python")
    assert (refused.action, refused.rule) == (Action.DENY, "operator/tools")
    assert "'python'" in refused.reason
    assert decide(Policy(tools=())).action is Action.DENY


def test_each_layer_must_allow_and_the_one_that_does_not_is_named() -> None:
    assert decide(ALL, ALL, Policy(tools=("python",))).rule == "call/tools"
    assert decide(ALL, Policy(tools=()), ALL).rule == "sandbox/tools"
    denying = policy({"name": "no-rm", "action": "deny", "tools": "bash"})
    assert decide(ALL, Policy(), denying).rule == "call/no-rm"
    unnamed = policy({"action": "deny"})
    assert decide(ALL, unnamed).rule == "sandbox/rule-1"
    assert decide(ALL, Policy(), Policy()).rule == "operator/tools"


def test_capabilities_are_needed_in_every_layer() -> None:
    assert decide(ALL, needs=("exec",)).action is Action.ALLOW
    refused = decide(ALL, Policy(capabilities=("file",)), needs=("file", "exec"))
    assert (refused.action, refused.rule) == (Action.DENY, "sandbox/capabilities")
    assert "exec" in refused.reason
    assert decide(DEFAULT_POLICY, needs=("network",)).action is Action.DENY


def test_deny_beats_ask_beats_allow_whatever_the_order() -> None:
    rules = [
        {"name": "yes", "action": "allow"},
        {"name": "maybe", "action": "ask", "when": {"x": {">": 1}}},
        {"name": "no", "action": "deny", "when": {"x": {">": 2}}},
    ]
    for ordered in (rules, rules[::-1]):
        layer = policy(*ordered, tools=["bash"])
        assert [decide(layer, x=n).rule for n in (1, 2, 3)] == [
            "operator/yes",
            "operator/maybe",
            "operator/no",
        ]
        assert [decide(layer, x=n).action for n in (1, 2, 3)] == [
            Action.ALLOW,
            Action.ASK,
            Action.DENY,
        ]


def test_a_deny_further_in_beats_an_ask_further_out() -> None:
    asking = policy({"name": "ask", "action": "ask"}, tools=["*"])
    denying = policy({"name": "no", "action": "deny"})
    assert decide(asking, denying).rule == "sandbox/no"
    assert decide(asking, ALL).rule == "operator/ask"


def test_allow_rules_for_a_tool_are_the_only_way_it_is_allowed() -> None:
    layer = policy(
        {"name": "git", "action": "allow", "tools": "bash", "when": {"command": {"glob": "git *"}}},
        tools=["bash", "python"],
    )
    assert decide(layer, command="git status").rule == "operator/git"
    assert decide(layer, command="rm -rf /").rule == "operator/no-rule"
    assert decide(layer, tool="python").rule == "operator/tools"


def test_allow_rules_without_tools_list_the_tools_they_name() -> None:
    layer = policy({"action": "allow", "tools": ["bash"]})
    assert decide(layer).action is Action.ALLOW
    assert decide(layer, tool="python").rule == "operator/tools"
    narrowing = policy({"action": "allow", "tools": ["bash"]})
    assert decide(ALL, narrowing, tool="python").rule == "sandbox/tools"


def test_rules_for_all_tools_and_for_one_are_both_heard() -> None:
    layer = policy(
        {"name": "all", "action": "deny", "when": {"x": {"eq": 1}}},
        {"name": "one", "action": "deny", "tools": "bash", "when": {"y": {"eq": 1}}},
        tools=["*"],
    )
    assert decide(layer, x=1, y=0).rule == "operator/all"
    assert decide(layer, x=0, y=1).rule == "operator/one"
    assert decide(layer, tool="python", x=0).action is Action.ALLOW


@pytest.mark.parametrize(
    ("comparison", "value", "holds"),
    [
        ({"eq": "a"}, "a", True),
        ({"eq": "a"}, "A", False),
        ({"eq": 1}, 1.0, True),
        ({"eq": True}, True, True),
        ({"eq": None}, None, True),
        ({"in": ["a", "b"]}, "b", True),
        ({"in": ["a", "b"]}, "c", False),
        ({"<=": 5}, 5, True),
        ({"<": 5}, 5, False),
        ({">=": 5}, 5, True),
        ({">": 5}, 5.5, True),
        ({">": 5}, 10**400, True),
        ({"glob": "/workspace/*"}, "/workspace/a/b", True),
        ({"glob": "/workspace/*"}, "/etc/workspace/", False),
        ({"cidr": "10.0.0.0/8"}, "10.1.2.3", True),
        ({"cidr": "10.0.0.0/8"}, "11.1.2.3", False),
        ({"cidr": "10.0.0.0/8"}, "::ffff:10.1.2.3", True),
        ({"cidr": "fd00::/8"}, "10.1.2.3", False),
        ({"exists": True}, "", True),
        ({"exists": False}, 0, False),
        ({">": 1, "<": 5}, 3, True),
        ({">": 1, "<": 5}, 7, False),
    ],
)
def test_operators(comparison: dict[str, Any], value: Any, holds: bool) -> None:
    when, args = {"x": comparison}, {"x": value}
    assert verdict(when, args, "allow") is (Action.ALLOW if holds else Action.DENY)
    assert verdict(when, args, "deny") is (Action.DENY if holds else Action.ALLOW)
    assert verdict(when, args, "ask") is (Action.ASK if holds else Action.ALLOW)


@pytest.mark.parametrize(
    ("comparison", "args"),
    [
        ({"eq": "a"}, {}),
        ({"eq": None}, {}),
        ({"in": ["a"]}, {}),
        ({"glob": "a*"}, {}),
        ({"<": 5}, {}),
        ({"cidr": "10.0.0.0/8"}, {}),
        ({"eq": 22}, {"x": "22"}),
        ({"eq": 1}, {"x": True}),
        ({"eq": "a"}, {"x": ["a"]}),
        ({"eq": "a"}, {"x": None}),
        ({"in": [1, "a"]}, {"x": "1"}),
        ({"<": 5}, {"x": "3"}),
        ({"<": 5}, {"x": True}),
        ({"<": 5}, {"x": float("nan")}),
        ({"glob": "a*"}, {"x": 5}),
        ({"glob": "*a*"}, {"x": "b" * 100_000}),
        ({"cidr": "10.0.0.0/8"}, {"x": "0x0a.1"}),
        ({"cidr": "10.0.0.0/8"}, {"x": "internal.example.org"}),
        ({"exists": True}, {"x": None}),
        ({"exists": False}, {"x": None}),
    ],
)
def test_what_cannot_be_told_denies_asks_and_never_allows(
    comparison: dict[str, Any], args: dict[str, Any]
) -> None:
    when = {"x": comparison}
    assert verdict(when, args, "deny") is Action.DENY
    assert verdict(when, args, "ask") is Action.ASK
    assert verdict(when, args, "allow") is Action.DENY


def test_exists_tells_a_missing_argument() -> None:
    assert verdict({"x": {"exists": False}}, {}, "deny") is Action.DENY
    assert verdict({"x": {"exists": True}}, {}, "deny") is Action.ALLOW


def test_one_clear_no_settles_a_rule_with_several_conditions() -> None:
    when = {"action": {"eq": "delete"}, "path": {"glob": "/workspace/keep/*"}}
    assert verdict(when, {"action": "list"}, "deny") is Action.ALLOW
    assert verdict(when, {"action": "delete"}, "deny") is Action.DENY
    assert verdict(when, {"action": "delete", "path": "/workspace/x"}, "deny") is Action.ALLOW


def test_dotted_paths_reach_into_objects_only() -> None:
    when = {"a.b": {"eq": 1}}
    assert verdict(when, {"a": {"b": 1}}, "allow") is Action.ALLOW
    assert verdict(when, {"a": {"b": 2}}, "deny") is Action.ALLOW
    for args in ({"a": [1]}, {"a": "b"}, {"a.b": 1}, {}):
        assert verdict(when, args, "allow") is Action.DENY
        assert verdict(when, args, "deny") is Action.DENY


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"when": {"x": {"regex": ".*"}}}, "unknown operator 'regex'"),
        ({"when": {"x": {}}}, "when.x"),
        ({"when": {"x": 5}}, "when.x"),
        ({"when": {"": {"eq": 1}}}, "1 to 256"),
        ({"when": {"a..b": {"eq": 1}}}, "when.a..b"),
        ({"when": {"x": {"in": []}}}, "when.x.in"),
        ({"when": {"x": {"in": "abc"}}}, "when.x.in"),
        ({"when": {"x": {"<": True}}}, "when.x.<"),
        ({"when": {"x": {"<": float("inf")}}}, "when.x.<"),
        ({"when": {"x": {"glob": ""}}}, "when.x.glob"),
        ({"when": {"x": {"glob": "a" * 257}}}, "when.x.glob"),
        ({"when": {"x": {"cidr": "10.0.0.1/8"}}}, "when.x.cidr"),
        ({"when": {"x": {"exists": 1}}}, "when.x.exists"),
        ({"when": {"x": {"eq": [1]}}}, "when.x.eq"),
        ({"when": {f"x{n}": {"eq": 1} for n in range(9)}}, "9 conditions"),
        ({"reason": ""}, "reason"),
        ({"action": "permit"}, "action"),
        ({"tools": []}, "tools"),
    ],
)
def test_malformed_rules_are_refused_by_name(rule: dict[str, Any], words: str) -> None:
    with pytest.raises(SandboxError) as refused:
        policy({"action": "deny", "when": {}} | rule)
    assert words in refused.value.message


def test_a_policy_bounds_what_its_rules_cost() -> None:
    slow = [{"action": "deny", "when": {"x": {"glob": "*a?b*"}}}] * 9
    with pytest.raises(SandboxError, match="8 at most"):
        policy(*slow)
    long = [{"action": "deny", "when": {"x": {"in": ["y" * 1000] * 256}}}]
    with pytest.raises(SandboxError, match="65536 at most"):
        policy(*long)
    with pytest.raises(SandboxError, match="rules"):
        policy(*[{"action": "deny"}] * 129)


def test_names_of_rules_are_unique() -> None:
    with pytest.raises(SandboxError, match="same name twice"):
        policy({"name": "a", "action": "deny"}, {"name": "a", "action": "ask"})


def test_rules_for_other_tools_cost_nothing() -> None:
    """Rules are indexed by tool: a hundred for others are not even looked at."""

    def seconds(others: int) -> float:
        rules = [
            {"action": "deny", "tools": f"t{n}", "when": {"x": {"eq": n}}} for n in range(others)
        ]
        rules.append({"action": "deny", "tools": "bash", "when": {"x": {"eq": -1}}})
        compiled = compile_policy([policy(*rules, tools=["*"])])
        nothing: frozenset[str] = frozenset()
        return min(timeit.repeat(lambda: compiled.decide("bash", nothing, {"x": 1}), number=2000))

    assert seconds(120) < 5 * seconds(0)
