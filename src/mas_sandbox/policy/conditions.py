"""Conditions of rules, compiled to functions that answer yes, no or "cannot tell".

"Cannot tell" (None) is for an argument that is missing, or of a kind the operator
does not compare: what the tool will make of it is not known here. A deny or ask
rule takes it as a match and an allow rule does not, so that every doubt ends on
the side of safety.
"""

from __future__ import annotations

import math
import operator as operators
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from .glob import MAX_SUBJECT, compile_glob
from .rules import Condition, Operator

Verdict = bool | None
Test = Callable[[Mapping[str, Any]], Verdict]

_MISSING: Any = object()


def compile_condition(condition: Condition) -> Test:
    """A function from a call's arguments to whether the condition holds."""
    compare = _comparison(condition.operator, condition.value)
    first, *rest = condition.argument.split(".")
    if not rest:
        return lambda args: compare(args.get(first, _MISSING))

    def test(args: Mapping[str, Any]) -> Verdict:
        value: Any = args.get(first, _MISSING)
        for name in rest:
            value = value.get(name, _MISSING) if isinstance(value, dict) else _MISSING
        return compare(value)

    return test


def _comparison(operator: Operator, operand: Any) -> Callable[[Any], Verdict]:
    match operator:
        case Operator.EQ:
            return _one_of([operand])
        case Operator.IN:
            return _one_of(operand)
        case Operator.AT_MOST:
            return _number(operators.le, operand)
        case Operator.LESS:
            return _number(operators.lt, operand)
        case Operator.AT_LEAST:
            return _number(operators.ge, operand)
        case Operator.MORE:
            return _number(operators.gt, operand)
        case Operator.GLOB:
            return _glob(operand)
        case Operator.CIDR:
            return _cidr(operand)
        case Operator.EXISTS:
            return _exists(operand)
        case _:
            assert_never(operator)


# What JSON calls it; Python would have True equal 1. Decoded JSON has no subclasses.
_KINDS = {bool: "boolean", int: "number", float: "number", str: "string", type(None): "null"}


def _one_of(choices: list[Any]) -> Callable[[Any], Verdict]:
    wanted = frozenset((_KINDS[type(choice)], choice) for choice in choices)
    kinds = {kind for kind, _ in wanted}
    only = kinds.pop() if len(kinds) == 1 else None

    def compare(value: Any) -> Verdict:
        kind = _KINDS.get(type(value))
        if kind is None:
            return None
        if (kind, value) in wanted:
            return True
        # "22" is not 22, but a tool may take it for 22: only like kinds are surely unequal.
        return False if kind == only else None

    return compare


def _number(holds: Callable[[Any, Any], bool], operand: float) -> Callable[[Any], Verdict]:
    def compare(value: Any) -> Verdict:
        kind = type(value)
        if kind is int or (kind is float and math.isfinite(value)):
            return holds(value, operand)
        return None

    return compare


def _glob(pattern: str) -> Callable[[Any], Verdict]:
    matches = compile_glob(pattern)

    def compare(value: Any) -> Verdict:
        if not isinstance(value, str) or len(value) > MAX_SUBJECT:
            return None
        return matches(value)

    return compare


def _cidr(block: str) -> Callable[[Any], Verdict]:
    import ipaddress

    network = ipaddress.ip_network(block)

    def compare(value: Any) -> Verdict:
        if not isinstance(value, str) or len(value) > 64:
            return None
        try:
            address = ipaddress.ip_address(value)
        except ValueError:
            return None  # a name, or a spelling such as 0x7f.1 that a tool may understand
        # ::ffff:10.0.0.1 reaches 10.0.0.1
        mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return address in network or (mapped is not None and mapped in network)

    return compare


def _exists(wanted: bool) -> Callable[[Any], Verdict]:
    def compare(value: Any) -> Verdict:
        # A tool may take null for absent or for a value.
        return None if value is None else (value is not _MISSING) == wanted

    return compare
