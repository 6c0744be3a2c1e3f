"""The walls that single tools ask for, stronger than what the policy asks for all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from mas_sandbox.wire.isolation import Isolation

from .rules import ToolName

MAX_TOOLS = 256

Pairs = tuple[tuple[str, Isolation], ...]


def _pairs(value: object) -> object:
    return tuple(sorted(value.items(), key=str)) if isinstance(value, Mapping) else value


ToolIsolation = Annotated[
    tuple[tuple[ToolName, Isolation], ...],
    BeforeValidator(_pairs),
    PlainSerializer(dict),
    WithJsonSchema(
        {
            "type": "object",
            "description": "tool, or * for all -> the weakest walls that it may run behind",
            "additionalProperties": {"enum": [level.value for level in Isolation]},
        }
    ),
    Field(max_length=MAX_TOOLS),
]
"""(tool, least isolation) pairs, written as a mapping."""


def stronger(one: Isolation | None, other: Isolation | None) -> Isolation | None:
    """The stronger of two demands; None is no demand."""
    if one is None or other is None:
        return one or other
    return max(one, other, key=lambda level: level.strength)


def both(outer: Pairs | None, inner: Pairs | None) -> Pairs | None:
    """Each tool with the stronger of the two demands on it.

    An inner layer that asks for less than the outer one asks for nothing: each layer
    is a demand of its own, and all of them are met.
    """
    if outer is None or inner is None:
        return outer or inner
    merged: dict[str, Isolation | None] = dict(outer)
    for tool, level in inner:
        merged[tool] = stronger(merged.get(tool), level)
    return tuple(sorted((tool, level) for tool, level in merged.items() if level is not None))
