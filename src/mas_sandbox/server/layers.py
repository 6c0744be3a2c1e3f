"""Plans by layers of policy: the operator's, the sandbox's and the call's, each of
which must allow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, assert_never

from mas_sandbox.policy.controls import required_controls
from mas_sandbox.policy.decide import Action, CompiledPolicy, Decision, compile_policy
from mas_sandbox.policy.default import DEFAULT_POLICY, LOCAL_POLICY
from mas_sandbox.policy.grants import nested_read_only
from mas_sandbox.policy.model import Policy
from mas_sandbox.policy.narrow import narrow
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .plan import Built, Plan, Refused, Ruling
from .spec import LIMITS, guest_call, sandbox_spec
from .way_out import Reach, reach_of

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import SandboxSpec
    from mas_sandbox.tools.manifest import ToolSpec

    from .calls import ToolRequest
    from .catalog import Catalog
    from .sandboxes import NamedSandbox
    from .walls import Wall, Walls

_DEVICE = ("network", "bandwidth_kb_s")
"""Fixed as well where a sandbox may have a network device."""
_NOTHING_ASKED = Policy()
"""The layer of a sandbox or a call that brought no policy: it narrows nothing."""
_KEPT = 64
"""How many layers of policy are kept together with what they come to."""


def base_policy(runtime: str) -> Policy:
    """The policy shipped for a runtime; an operator's policy inherits from it."""
    return LOCAL_POLICY if runtime == "local" else DEFAULT_POLICY


@dataclass(frozen=True, slots=True)
class _Together:
    """What layers of policy come to: all that is the same for every call under them."""

    effective: Policy
    compiled: CompiledPolicy
    controls: frozenset[Control]
    spec: SandboxSpec
    reach: Reach


class Layered:
    """See `plan.Planner`, whose parts these are."""

    def __init__(
        self,
        walls: Walls,
        catalog: Catalog,
        environment: Mapping[str, str],
        extensions: tuple[tuple[str, str], ...],
    ) -> None:
        self._walls = walls
        self._catalog = catalog
        self._environment = environment
        self._extensions = extensions
        self._together = lru_cache(_KEPT)(self._put_together)

    def call(
        self,
        tool: ToolSpec,
        request: ToolRequest,
        asked: tuple[Policy | None, Policy | None, Policy | None],
        named: NamedSandbox | None,
    ) -> Plan:
        """`asked`: what operator, sandbox and call wrote, outermost first."""
        together = self._together(*asked)
        effective, controls, spec = together.effective, together.controls, together.spec
        self._catalog.check(tool, request.args)
        capabilities = frozenset(str(capability) for capability in tool.capabilities)
        decision = together.compiled.decide(tool.name, capabilities, request.args)
        _obey(decision)
        if named is not None and named.built.paths != effective.paths:
            controls |= {Control.PATHS}  # less than what is there: held inside, or not at all
        wall = self._wall(effective, tool.name, controls, named)
        if named is not None:
            fixed = LIMITS + (_DEVICE if wall.pool.runtime.network_devices else ())
            _same_walls(fixed, named.built.spec, spec)
        call = guest_call(tool.name, request.args, effective, self._environment)
        if named is not None:
            call.env |= named.terms.env
        return Plan(
            ruling=_ruling(decision),
            call=call,
            built=Built(wall, spec, together.reach, effective.paths),
            controls=controls,
            max_concurrent=effective.max_concurrent,
        )

    def sandbox(self, operator: Policy | None, asked: Policy | None, runtime: str | None) -> Built:
        """What a named sandbox is built with, for every tool that may run in it."""
        together = self._together(operator, asked, None)
        effective = together.effective
        wall = self._wall(effective, "*", together.controls, None, runtime)
        return Built(wall, together.spec, together.reach, effective.paths)

    def tools(self, operator: Policy | None) -> list[ToolSpec]:
        """The tools that a policy does not rule out altogether."""
        policy = operator or base_policy(self._walls.default.name)
        names = policy.granted_tools or ()
        allowed = policy.capabilities
        return [
            tool
            for tool in self._catalog
            if ("*" in names or tool.name in names)
            and (allowed is None or set(tool.capabilities) <= set(allowed))
        ]

    def _put_together(
        self, operator: Policy | None, sandbox: Policy | None, call: Policy | None
    ) -> _Together:
        """Raises SandboxError `policy_denied` where one asks for more than those outside it."""
        outermost = effective = operator or base_policy(self._walls.default.name)
        for asked, who in ((sandbox, "sandbox"), (call, "call")):
            if asked is not None:
                effective = narrow(effective, asked, who)
        return _Together(
            effective,
            compile_policy((outermost, sandbox or _NOTHING_ASKED, call or _NOTHING_ASKED)),
            required_controls(effective),
            sandbox_spec(effective, self._extensions),
            reach_of(effective),
        )

    def _wall(
        self,
        policy: Policy,
        tool: str,
        controls: frozenset[Control],
        named: NamedSandbox | None,
        runtime: str | None = None,
    ) -> Wall:
        """The runtime that holds all of this policy on this host; never one without it."""
        if (inner := nested_read_only(policy.paths or ())) is not None:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"paths: {inner.path} is read-only inside a path that is read-write, which "
                "Landlock cannot hold: it adds rights up. Grant the writable places one by one",
            )
        isolation = policy.isolation_for(tool)
        if named is None:
            return self._walls.choose(isolation, controls, runtime)
        refusal = named.built.wall.refuses(isolation, controls)
        if refusal:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE, f"this sandbox cannot run the call: {refusal}"
            )
        return named.built.wall


def _ruling(decision: Decision) -> Ruling:
    return Ruling(str(decision.action), decision.rule, decision.reason)


def _obey(decision: Decision) -> None:
    match decision.action:
        case Action.ALLOW:
            return
        case Action.DENY:
            code, verb = ErrorCode.POLICY_DENIED, "denied"
        case Action.ASK:
            code, verb = ErrorCode.APPROVAL_REQUIRED, "held for a person's approval"
        case _:
            assert_never(decision.action)
    raise Refused(code, f"{verb} by {decision.rule}: {decision.reason}", _ruling(decision))


def _same_walls(fixed: tuple[str, ...], built: SandboxSpec, asked: SandboxSpec) -> None:
    for name in fixed:
        have, want = getattr(built, name), getattr(asked, name)
        if have != want:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"{name} is fixed when a sandbox is created (here {have}) and cannot be {want} "
                f"for one call; create a sandbox with {name}: {want}",
            )
