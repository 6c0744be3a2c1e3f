"""How much one principal's open sandboxes may take together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import SandboxSpec

MAX_PER_PRINCIPAL = 32


@dataclass(frozen=True, slots=True)
class Quota:
    """Of each principal, in one daemon; None is not limited. Paused sandboxes count: they keep
    their memory."""

    count: int = MAX_PER_PRINCIPAL
    cpus: float | None = None
    mem_mb: int | None = None

    def check(self, spec: SandboxSpec, held: Iterable[SandboxSpec]) -> None:
        """Whether a sandbox of this spec fits beside what is held.

        Raises SandboxError: `overloaded`, or `policy_unenforceable` for a spec that leaves
        open how much it takes of what is limited.
        """
        others = list(held)
        if len(others) >= self.count:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"{len(others)} sandboxes are open, the most one principal may have; destroy one",
            )
        self._check("cpus", self.cpus, spec.cpus, [each.cpus for each in others])
        self._check("mem_mb", self.mem_mb, spec.mem_mb, [each.mem_mb for each in others])

    @staticmethod
    def _check(
        name: str, most: float | None, asked: float | None, held: Sequence[float | None]
    ) -> None:
        if most is None:
            return
        if asked is None:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"{name} is shared out among principals here, and the policy does not limit it; "
                f"create the sandbox with a policy that sets {name}",
            )
        taken = sum(each or 0 for each in held)
        if taken + asked > most:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"open sandboxes take {taken:g} of the {most:g} {name} that one principal may "
                f"have, and this one asks for {asked:g}; destroy one, or ask for less",
            )
