"""What one sandbox may reach over the network, and the record of what it tried.

The egress room is imported when a sandbox first opens a connection: most never do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.audit.log import AuditLog
    from mas_sandbox.egress.decision import Decision
    from mas_sandbox.egress.session import Session
    from mas_sandbox.policy.grants import NetworkPolicy
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.streams import GuestStream

SERVICE = "egress"
RECORDS_AT_ONCE = 1000
RECORDS_A_SECOND = 20
"""How fast a sandbox may fill the audit log with what it tries; what goes beyond is refused."""


@dataclass(frozen=True, slots=True)
class Reach:
    """`network`: None reaches nothing; `bandwidth_kb_s`: KiB a second, None for no bound."""

    network: NetworkPolicy | None = None
    bandwidth_kb_s: int | None = None


NOWHERE = Reach()


def reach_of(policy: Policy) -> Reach:
    """What a policy allows; the same for all that allow nothing."""
    network = policy.network
    if network is None or network.reaches_nothing:
        return NOWHERE
    return Reach(network, policy.bandwidth_kb_s)


class WayOut:
    """The handler of the service `egress` for one sandbox.

    `sandbox_id`: what the audit log calls the sandbox.
    """

    def __init__(self, audit: AuditLog, principal: str, sandbox_id: str, reach: Reach) -> None:
        self._audit = audit
        self._principal = principal
        self._sandbox_id = sandbox_id
        self._reach = reach
        self._calls: dict[str, Reach] = {}
        self._session: Session | None = None
        self._records_left = float(RECORDS_AT_ONCE)
        self._counted_at = time.monotonic()

    @contextmanager
    def during(self, call_id: str, reach: Reach) -> Iterator[None]:
        """While this call runs, connections must be allowed by its policy too: whose process
        opened one cannot be told from outside, so the strictest of all that run decides."""
        self._calls[call_id] = reach
        with ExitStack() as undo:
            undo.callback(self._calls.pop, call_id)
            if reach != self._reach:
                undo.enter_context(self._opened().narrowed(reach.network, reach.bandwidth_kb_s))
            yield

    async def serve(self, stream: GuestStream) -> None:
        await self._opened().serve(stream)

    def _opened(self) -> Session:
        if self._session is None:
            from mas_sandbox.egress.session import Session

            self._session = Session(self._reach.network, self._reach.bandwidth_kb_s, self._record)
        return self._session

    def _count_record(self) -> None:
        now = time.monotonic()
        earned = (now - self._counted_at) * RECORDS_A_SECOND
        self._records_left = min(self._records_left + earned, RECORDS_AT_ONCE)
        self._counted_at = now
        if self._records_left < 1:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"over {RECORDS_AT_ONCE} connections, and more than {RECORDS_A_SECOND} a second",
            )
        self._records_left -= 1

    async def _record(self, decision: Decision) -> None:
        self._count_record()
        await self._audit.connection(
            principal=self._principal,
            sandbox_id=self._sandbox_id,
            call_ids=list(self._calls),
            protocol=decision.protocol,
            host=decision.host,
            port=decision.port,
            method=decision.method,
            path=decision.path,
            address=decision.address,
            decision={
                "action": "allow" if decision.allowed else "deny",
                "rule": decision.rule,
                "reason": decision.reason,
            },
        )
