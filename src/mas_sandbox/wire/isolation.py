"""How strong a wall is, weakest first."""

from __future__ import annotations

from enum import StrEnum


class Isolation(StrEnum):
    """`none` < `process` (one kernel shared) < `kernel` (a kernel in user space) < `vm`."""

    NONE = "none"
    PROCESS = "process"
    KERNEL = "kernel"
    VM = "vm"

    @property
    def strength(self) -> int:
        return _ORDER.index(self)


_ORDER = list(Isolation)
WORKSPACE = "/workspace"
"""Where a sandbox's own files are, as policies and callers spell it, in every runtime."""
PROXY_PORT = 3128
"""Where a toolrunner behind a wall listens on its loopback for whatever wants to get out."""
