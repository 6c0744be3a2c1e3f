"""Rules: allow, deny or ask, by tool and by conditions on the call's arguments."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    WithJsonSchema,
)

from .glob import MAX_GLOB

MAX_CONDITIONS = 8
MAX_CHOICES = 256
MAX_DEPTH = 8
_MAX_TEXT = 1024

ToolName = Annotated[str, Field(pattern=r"^(\*|[A-Za-z0-9_][A-Za-z0-9_./:-]{0,127})$")]
"""A tool's name, or `*` for all."""


class Action(StrEnum):
    """What a rule says. Deny beats ask beats allow."""

    ALLOW = "allow"
    DENY = "deny"
    ASK = "ask"


class Operator(StrEnum):
    """The closed set of comparisons. There is no regular expression and no loop."""

    EQ = "eq"
    IN = "in"
    AT_MOST = "<="
    LESS = "<"
    AT_LEAST = ">="
    MORE = ">"
    GLOB = "glob"
    CIDR = "cidr"
    EXISTS = "exists"


NUMERIC = frozenset({Operator.AT_MOST, Operator.LESS, Operator.AT_LEAST, Operator.MORE})


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of one argument. `argument`: dotted path into the call's args.

    `operand` is JSON text, so that conditions are immutable and `true` never equals `1`.
    """

    argument: str
    operator: Operator
    operand: str

    @property
    def value(self) -> Any:
        return json.loads(self.operand)


def _conditions(value: object) -> tuple[Condition, ...]:
    if isinstance(value, tuple) and all(isinstance(item, Condition) for item in value):
        return value
    if not isinstance(value, dict):
        raise ValueError("'when' maps argument names to {operator: value}")
    conditions = []
    for argument, comparisons in value.items():
        _check_argument(argument)
        if not isinstance(comparisons, dict) or not comparisons:
            raise ValueError(f"'when.{argument}' is not {{operator: value}}, such as {{eq: 1}}")
        for name, operand in comparisons.items():
            operator = _operator(argument, name)
            _check_operand(f"when.{argument}.{name}", operator, operand)
            conditions.append(Condition(argument, operator, json.dumps(operand)))
    if len(conditions) > MAX_CONDITIONS:
        raise ValueError(f"{len(conditions)} conditions in one rule; {MAX_CONDITIONS} at most")
    return tuple(conditions)


def _check_argument(argument: object) -> None:
    if not isinstance(argument, str) or not 0 < len(argument) <= 256:
        raise ValueError("an argument in 'when' is a name of 1 to 256 characters")
    parts = argument.split(".")
    if not all(parts) or len(parts) > MAX_DEPTH:
        raise ValueError(
            f"'when.{argument}': a dotted path has 1 to {MAX_DEPTH} parts, none of them empty"
        )


def _operator(argument: str, name: object) -> Operator:
    try:
        return Operator(str(name))
    except ValueError:
        raise ValueError(
            f"'when.{argument}': unknown operator {str(name)[:40]!r}; one of {', '.join(Operator)}"
        ) from None


def _check_operand(where: str, operator: Operator, operand: object) -> None:
    if operator is Operator.EQ:
        _check_scalar(where, operand)
    elif operator is Operator.IN:
        if not isinstance(operand, list) or not 0 < len(operand) <= MAX_CHOICES:
            raise ValueError(f"'{where}' is a list of 1 to {MAX_CHOICES} values")
        for choice in operand:
            _check_scalar(where, choice)
    elif operator in NUMERIC:
        if isinstance(operand, bool) or not isinstance(operand, int | float):
            raise ValueError(f"'{where}' is a number")
        _check_scalar(where, operand)
    elif operator is Operator.EXISTS:
        if not isinstance(operand, bool):
            raise ValueError(f"'{where}' is true or false")
    elif not isinstance(operand, str):
        raise ValueError(f"'{where}' is a string")
    elif operator is Operator.GLOB:
        if not 0 < len(operand) <= MAX_GLOB:
            raise ValueError(f"'{where}' has 1 to {MAX_GLOB} characters")
    else:
        _check_block(where, operand)


def _check_scalar(where: str, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"'{where}' is not a finite number")
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise ValueError(f"'{where}' has over {_MAX_TEXT} characters")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"'{where}' is a string, number, true, false or null")


def _check_block(where: str, operand: str) -> None:
    import ipaddress

    try:
        ipaddress.ip_network(operand)
    except ValueError as error:
        raise ValueError(f"'{where}' is not an address block: {error}") from error


def _as_mapping(conditions: tuple[Condition, ...]) -> dict[str, dict[str, Any]]:
    mapping: dict[str, dict[str, Any]] = {}
    for condition in conditions:
        mapping.setdefault(condition.argument, {})[condition.operator.value] = condition.value
    return mapping


Conditions = Annotated[
    tuple[Condition, ...],
    PlainValidator(_conditions),
    PlainSerializer(_as_mapping),
    WithJsonSchema(
        {
            "type": "object",
            "description": "argument path -> {operator: value}; all must hold",
            "additionalProperties": {
                "type": "object",
                "propertyNames": {"enum": [operator.value for operator in Operator]},
            },
        }
    ),
]


class Rule(BaseModel):
    """One rule. It matches a call of one of `tools` for which all of `when` holds.

    `reason` is told to the caller when the rule denies or asks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    action: Action
    tools: Annotated[
        tuple[ToolName, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        Field(min_length=1, max_length=MAX_CHOICES),
    ] = ("*",)
    when: Conditions = ()
    reason: str = Field(min_length=1, max_length=512)
