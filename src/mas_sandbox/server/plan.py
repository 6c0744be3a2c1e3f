"""What is settled about a call before it may wait for its turn: may it run, as what,
behind which walls. Nothing here waits, runs or writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .shipped import SHIPPED
from .way_out import NOWHERE, Reach

if TYPE_CHECKING:
    from mas_sandbox.policy.grants import PathGrant
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import SandboxSpec
    from mas_sandbox.tools.manifest import ToolSpec
    from mas_sandbox.wire.messages import Call

    from .calls import ToolRequest
    from .catalog import Catalog
    from .layers import Layered
    from .sandboxes import NamedSandbox
    from .walls import Wall, Walls


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the audit log keeps of a decision: allow, deny or ask; which rule; why."""

    action: str
    rule: str
    reason: str


class Refused(SandboxError):
    """A call that a rule decided against."""

    def __init__(self, code: ErrorCode, message: str, ruling: Ruling) -> None:
        super().__init__(code, message)
        self.ruling = ruling


@dataclass(frozen=True, slots=True)
class Built:
    """What a sandbox is made of: where it runs, its limits, and what it may reach.
    `paths`: what its policy grants, None where that never mentions any."""

    wall: Wall
    spec: SandboxSpec
    reach: Reach = NOWHERE
    paths: tuple[PathGrant, ...] | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that may run."""

    ruling: Ruling
    call: Call
    built: Built
    controls: frozenset[Control]
    max_concurrent: int | None = None


class Planner:
    """Decides by the policies, the tools' schemas and what the runtimes can enforce.

    Its methods raise `walls.Unprobed` where that last is still to be found out.
    """

    def __init__(
        self,
        walls: Walls,
        catalog: Catalog,
        environment: Mapping[str, str],
        extensions: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._walls = walls
        self._catalog = catalog
        self._environment = environment
        self._extensions = extensions
        self._long_way: Layered | None = None

    def call(
        self, operator: Policy | None, request: ToolRequest, named: NamedSandbox | None
    ) -> Plan:
        """Raises SandboxError: `not_found` for a tool, `invalid_request` for its arguments,
        `policy_denied`, `approval_required` or `policy_unenforceable`."""
        tool = self._catalog.find(request.tool)
        asked = (operator, named.policy if named else None, request.policy)
        if asked == (None, None, None) and (named is None or self._is_plain(named)):
            plan = self._shipped_plan(tool, request)
            if plan is not None:
                return plan
        return self._layered().call(tool, request, asked, named)

    def operation(self, operator: Policy | None, request: ToolRequest, named: NamedSandbox) -> Plan:
        """The plan for one of `tools.sessions.SESSIONS`; raises SandboxError as `call` does.
        Its `call` names no tool: it holds what the policy says of one."""
        from mas_sandbox.tools.sessions import SESSIONS

        asked = (operator, named.policy, request.policy)
        return self._layered().call(SESSIONS[request.tool], request, asked, named)

    def sandbox(
        self, operator: Policy | None, asked: Policy | None, runtime: str | None = None
    ) -> Built:
        """What a named sandbox is built with; `runtime`: by the one of this name, and no other.
        Raises SandboxError as `call` does, `invalid_request` for a runtime there is none of."""
        return self._layered().sandbox(operator, asked, runtime)

    def tools(self, operator: Policy | None) -> list[ToolSpec]:
        """The tools that a policy does not rule out altogether."""
        return self._layered().tools(operator)

    def _is_plain(self, named: NamedSandbox) -> bool:
        """Whether it is what a call without a name would be given."""
        return named.built.wall is self._walls.default and not named.terms.env

    def _shipped_plan(self, tool: ToolSpec, request: ToolRequest) -> Plan | None:
        """The plan where nobody wrote a policy; None where it would not be an `allow`."""
        wall = self._walls.default
        shipped = SHIPPED.get(wall.name, SHIPPED[""])
        if not tool.capabilities <= shipped.capabilities or wall.refuses(
            shipped.min_isolation, shipped.controls
        ):
            return None
        self._catalog.check(tool, request.args)
        return Plan(
            Ruling("allow", "operator/tools", "the tool is listed"),
            shipped.call(tool.name, request.args),
            Built(wall, shipped.sandbox(self._extensions)),
            shipped.controls,
        )

    def _layered(self) -> Layered:
        """The long way, behind an import that a call without any policy need not pay for."""
        if self._long_way is None:
            from .layers import Layered

            self._long_way = Layered(
                self._walls, self._catalog, self._environment, self._extensions
            )
        return self._long_way
