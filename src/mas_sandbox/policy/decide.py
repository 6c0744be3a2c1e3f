"""Whether a call may run, and which rule says so.

Each layer (operator, sandbox, call) decides by itself and each must allow. In one
layer: a tool outside `tools` is denied; then deny beats ask beats allow; where a
tool has allow rules, one of them must match; a listed tool without any is allowed.
The operator's layer must name the tool: what nobody allowed is denied.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from .conditions import Test, Verdict, compile_condition
from .model import Policy
from .rules import Action, Rule

__all__ = ["LAYERS", "Action", "CompiledPolicy", "Decision", "compile_policy"]

LAYERS = ("operator", "sandbox", "call")


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, by which rule (`operator/no-rm`, `call/tools`), and why."""

    action: Action
    rule: str
    reason: str


_Matcher = Callable[[Mapping[str, Any]], Verdict]


@dataclass(frozen=True, slots=True)
class _ToolRules:
    """The rules of one layer that concern one tool, strongest first."""

    refusing: tuple[tuple[_Matcher, Decision], ...]
    allowing: tuple[tuple[_Matcher, Decision], ...]
    otherwise: Decision | None

    def decide(self, args: Mapping[str, Any]) -> Decision | None:
        for matches, decision in self.refusing:
            if matches(args) is not False:
                return decision
        for matches, decision in self.allowing:
            if matches(args) is True:
                return decision
        return self.otherwise


class _Layer:
    """One policy, indexed by tool."""

    def __init__(self, name: str, policy: Policy) -> None:
        self._name = name
        granted = policy.granted_tools
        self._granted = None if granted is None else frozenset(granted)
        capabilities = policy.capabilities
        self._capabilities = None if capabilities is None else frozenset(capabilities)
        rules = [(f"{name}/{rule.name or f'rule-{n}'}", rule) for n, rule in _numbered(policy)]
        named = {tool for _, rule in rules for tool in rule.tools} - {"*"}
        self._by_tool = {tool: self._rules_of(tool, rules) for tool in named}
        self._of_others = self._rules_of("*", rules)

    def _rules_of(self, tool: str, rules: list[tuple[str, Rule]]) -> _ToolRules:
        mine = [(name, rule) for name, rule in rules if not {"*", tool}.isdisjoint(rule.tools)]
        compiled = [
            (rule.action, (_matcher(rule), Decision(rule.action, name, rule.reason)))
            for name, rule in mine
        ]
        of = {action: tuple(pair for a, pair in compiled if a is action) for action in Action}
        otherwise = None
        if of[Action.ALLOW]:
            otherwise = self._denial("no-rule", "no allow rule for this tool matches its arguments")
        elif self._granted is not None:
            otherwise = Decision(Action.ALLOW, f"{self._name}/tools", "the tool is listed")
        return _ToolRules(of[Action.DENY] + of[Action.ASK], of[Action.ALLOW], otherwise)

    def decide(
        self, tool: str, capabilities: frozenset[str], args: Mapping[str, Any]
    ) -> Decision | None:
        """None where this layer has nothing to say about the call."""
        if self._granted is not None and tool not in self._granted and "*" not in self._granted:
            return self._denial("tools", f"tool {tool[:128]!r} is not among the allowed tools")
        if self._capabilities is not None and not capabilities <= self._capabilities:
            missing = ", ".join(sorted(capabilities - self._capabilities))
            return self._denial("capabilities", f"the tool needs {missing}, which is not allowed")
        return self._by_tool.get(tool, self._of_others).decide(args)

    def _denial(self, rule: str, reason: str) -> Decision:
        return Decision(Action.DENY, f"{self._name}/{rule}", reason)


def _numbered(policy: Policy) -> enumerate[Rule]:
    return enumerate(policy.rules or (), start=1)


def _matcher(rule: Rule) -> _Matcher:
    """The conjunction of a rule's conditions: one clear no settles it."""
    tests: tuple[Test, ...] = tuple(map(compile_condition, rule.when))
    if len(tests) == 1:
        return tests[0]

    def matches(args: Mapping[str, Any]) -> Verdict:
        sure: Verdict = True
        for test in tests:
            verdict = test(args)
            if verdict is False:
                return False
            if verdict is None:
                sure = None
        return sure

    return matches


_UNGRANTED = Decision(
    Action.DENY, "operator/no-rule", "the operator's policy names no tool; what it names may run"
)


class CompiledPolicy:
    """Layers of policy, ready to decide. Immutable; safe to share."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self._layers = tuple(layers)

    def decide(self, tool: str, capabilities: frozenset[str], args: Mapping[str, Any]) -> Decision:
        """Whether `tool`, which has `capabilities`, may run with `args` (decoded JSON).

        The first denial is the decision, else the first ask, else the outermost allow.
        """
        decisions = [layer.decide(tool, capabilities, args) for layer in self._layers]
        asked = None
        for decision in decisions:
            if decision is None:
                continue
            if decision.action is Action.DENY:
                return decision
            if decision.action is Action.ASK:
                asked = asked or decision
        # A layer further in can only narrow, so an operator's silence is a no.
        if not decisions or decisions[0] is None:
            return _UNGRANTED
        return asked or decisions[0]


def compile_policy(layers: Sequence[Policy]) -> CompiledPolicy:
    """Compile the policies of operator, sandbox and call, in this order, outermost first.

    A layer without a policy is `Policy()`; layers missing at the end have nothing to
    say. Compiled layers are kept, so that compiling the same policies again is cheap.
    """
    if len(layers) > len(LAYERS):
        raise ValueError(f"{len(layers)} layers of policy; there are {len(LAYERS)}")
    return CompiledPolicy(
        [_layer(name, policy) for name, policy in zip(LAYERS, layers, strict=False)]
    )


@lru_cache(maxsize=64)
def _layer(name: str, policy: Policy) -> _Layer:
    return _Layer(name, policy)
