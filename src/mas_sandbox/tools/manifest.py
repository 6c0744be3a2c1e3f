"""What a tool is, to everyone but the guest: a name, a schema, capabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """What a tool can do to the world inside its sandbox."""

    FILE = "file"  # reads or writes files beneath the paths it is granted
    NETWORK = "network"  # opens connections
    EXEC = "exec"  # runs programs of the caller's choosing
    UNSAFE = "unsafe"  # anything else that deserves a second look


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool. `input_schema` is JSON Schema (2020-12) of its arguments object."""

    name: str
    description: str
    input_schema: Mapping[str, Any]
    capabilities: frozenset[Capability]
