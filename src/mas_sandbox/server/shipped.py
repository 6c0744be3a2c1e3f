"""What the shipped policies come to, spelt out.

Importing the policy room costs more than everything else a one-call daemon does, and
most of them run under the policy they were shipped with. A test holds each of these
to `policy.default`, field by field and tool by tool.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.tools.manifest import Capability
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.isolation import WORKSPACE, Isolation
from mas_sandbox.wire.messages import Call


@dataclass(frozen=True, slots=True)
class Shipped:
    """One shipped policy, after everything is derived from it."""

    spec: SandboxSpec
    controls: frozenset[Control]
    min_isolation: Isolation
    capabilities: frozenset[Capability] = frozenset({Capability.FILE, Capability.EXEC})
    timeout_ms: int = 60_000
    output_bytes: int = 1024 * 1024

    def sandbox(self, extensions: tuple[tuple[str, str], ...]) -> SandboxSpec:
        """What a sandbox is built with, carrying the operator's tools."""
        return replace(self.spec, extensions=extensions) if extensions else self.spec

    def call(self, tool: str, args: Mapping[str, Any]) -> Call:
        """What the toolrunner is told."""
        return Call(
            tool,
            dict(args),
            timeout_ms=self.timeout_ms,
            output_bytes=self.output_bytes,
            paths=[(WORKSPACE, "rw")],
        )


_WALLED = Shipped(
    SandboxSpec(mem_mb=512, cpus=1.0, pids=128, disk_mb=1024),
    frozenset(
        {
            *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
            *(Control.NETWORK, Control.MEMORY, Control.CPU, Control.PIDS, Control.DISK),
        }
    ),
    Isolation.PROCESS,
)
_UNWALLED = Shipped(
    SandboxSpec(),
    frozenset({Control.TIMEOUT, Control.OUTPUT, Control.ENV}),
    Isolation.NONE,
)

SHIPPED: Mapping[str, Shipped] = {"": _WALLED, "local": _UNWALLED}
"""By runtime; the empty name stands for every runtime with walls."""
