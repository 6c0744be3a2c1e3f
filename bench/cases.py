"""The four small things that are asked of every sandbox, and of every peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mas_sandbox.wire.messages import Call

from .programs import PYTHON


@dataclass(frozen=True, slots=True)
class Case:
    """`argv`: as a program; `tool`, `args`: as a call of ours; `said`: what it writes."""

    name: str
    argv: tuple[str, ...]
    tool: str
    args: dict[str, Any]
    said: str

    def call(self) -> Call:
        return Call(self.tool, self.args, timeout_ms=20_000)


ECHO = Case("echo", ("/bin/bash", "-c", "echo hi"), "bash", {"command": "echo hi"}, "hi")
CALCULATOR = Case(
    "calculator",
    (PYTHON, "-I", "-S", "-c", "print(6 * 7)"),
    "calculator",
    {"expression": "6 * 7"},
    "42",
)
CASES = (
    Case("true", ("/bin/true",), "bash", {"command": "true"}, ""),
    ECHO,
    Case("python", (PYTHON, "-c", "print(1)"), "python", {"code": "print(1)"}, "1"),
    CALCULATOR,
)
