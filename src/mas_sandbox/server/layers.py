"""Plans by layers of policy: the operator's, the sandbox's and the call's, each of
which must allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, assert_never

from mas_sandbox.policy.controls import needs_egress, required_controls
from mas_sandbox.policy.decide import Action, Decision, compile_policy
from mas_sandbox.policy.default import DEFAULT_POLICY, LOCAL_POLICY
from mas_sandbox.policy.grants import nested_read_only
from mas_sandbox.policy.model import Policy
from mas_sandbox.policy.narrow import narrow
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .plan import Plan, Refused, Ruling, unenforceable
from .spec import LIMITS, guest_call, sandbox_spec

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import Probe, Runtime, SandboxSpec
    from mas_sandbox.tools.manifest import ToolSpec

    from .calls import ToolRequest
    from .catalog import Catalog
    from .sandboxes import NamedSandbox

_NOTHING_ASKED = Policy()
"""The layer of a sandbox or a call that brought no policy: it narrows nothing."""


def base_policy(runtime: str) -> Policy:
    """The policy shipped for a runtime; an operator's policy inherits from it."""
    return LOCAL_POLICY if runtime == "local" else DEFAULT_POLICY


class Layered:
    """See `plan.Planner`, whose parts these are."""

    def __init__(
        self,
        runtime: Runtime,
        probe: Probe,
        catalog: Catalog,
        environment: Mapping[str, str],
        extensions: tuple[tuple[str, str], ...],
    ) -> None:
        self._runtime = runtime
        self._probe = probe
        self._catalog = catalog
        self._environment = environment
        self._extensions = extensions

    def call(
        self,
        tool: ToolSpec,
        request: ToolRequest,
        asked: tuple[Policy | None, Policy | None, Policy | None],
        named: NamedSandbox | None,
    ) -> Plan:
        """`asked`: what operator, sandbox and call wrote, outermost first."""
        layers, effective = self._layers(*asked)
        self._catalog.check(tool, request.args)
        capabilities = frozenset(str(capability) for capability in tool.capabilities)
        decision = compile_policy(layers).decide(tool.name, capabilities, request.args)
        _obey(decision)
        self._enforceable(effective)
        spec = sandbox_spec(effective, self._extensions)
        if named is not None:
            _same_walls(named.spec, spec)
        return Plan(
            ruling=_ruling(decision),
            call=guest_call(tool.name, request.args, effective, self._environment),
            spec=spec,
            controls=required_controls(effective),
            max_concurrent=effective.max_concurrent,
        )

    def sandbox(self, operator: Policy | None, asked: Policy | None) -> SandboxSpec:
        """What a named sandbox is built with."""
        _, effective = self._layers(operator, asked, None)
        self._enforceable(effective)
        return sandbox_spec(effective, self._extensions)

    def tools(self, operator: Policy | None) -> list[ToolSpec]:
        """The tools that a policy does not rule out altogether."""
        policy = operator or base_policy(self._runtime.name)
        names = policy.granted_tools or ()
        allowed = policy.capabilities
        return [
            tool
            for tool in self._catalog
            if ("*" in names or tool.name in names)
            and (allowed is None or set(tool.capabilities) <= set(allowed))
        ]

    def _layers(
        self, operator: Policy | None, sandbox: Policy | None, call: Policy | None
    ) -> tuple[tuple[Policy, Policy, Policy], Policy]:
        """The layers, outermost first, and the policy that they come to together."""
        outermost = effective = operator or base_policy(self._runtime.name)
        for asked, who in ((sandbox, "sandbox"), (call, "call")):
            if asked is not None:
                effective = narrow(effective, asked, who)
        return (outermost, sandbox or _NOTHING_ASKED, call or _NOTHING_ASKED), effective

    def _enforceable(self, policy: Policy) -> None:
        """Refuse what this runtime cannot enforce on this host; never run without it."""
        missing = required_controls(policy) - self._probe.enforced
        if missing:
            raise unenforceable(self._runtime.name, self._probe, missing)
        asked, given = policy.min_isolation, self._runtime.isolation
        if asked is not None and asked.strength > given.strength:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"the policy asks for isolation {asked} at least; runtime {self._runtime.name} "
                f"gives {given}. Start the daemon with a stronger -runtime",
            )
        if (inner := nested_read_only(policy.paths or ())) is not None:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"paths: {inner.path} is read-only inside a path that is read-write, which "
                "Landlock cannot hold: it adds rights up. Grant the writable places one by one",
            )
        if needs_egress(policy):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"the policy allows named hosts (network); runtime {self._runtime.name} has no "
                "way out of its sandboxes. Leave network.hosts and network.cidrs empty",
            )


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


def _same_walls(built: SandboxSpec, asked: SandboxSpec) -> None:
    for name in LIMITS:
        have, want = getattr(built, name), getattr(asked, name)
        if have != want:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"{name} is fixed when a sandbox is created (here {have}) and cannot be {want} "
                f"for one call; create a sandbox with {name}: {want}",
            )
