"""What is settled about a call before it may wait for its turn: may it run, as what,
behind which walls. Nothing here waits, runs or writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from mas_sandbox.policy.controls import needs_egress, required_controls
from mas_sandbox.policy.decide import Action, Decision, compile_policy
from mas_sandbox.policy.model import Policy
from mas_sandbox.policy.narrow import narrow
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .spec import LIMITS, guest_call, sandbox_spec

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import Probe, Runtime, SandboxSpec
    from mas_sandbox.tools.manifest import ToolSpec
    from mas_sandbox.wire.messages import Call

    from .calls import ToolRequest
    from .catalog import Catalog
    from .sandboxes import NamedSandbox

_NOTHING_ASKED = Policy()
"""The layer of a sandbox or a call that brought no policy: it narrows nothing."""


class Refused(SandboxError):
    """A call that a rule decided against. `decision` goes into the audit log."""

    def __init__(self, code: ErrorCode, message: str, decision: Decision) -> None:
        super().__init__(code, message)
        self.decision = decision


@dataclass(frozen=True, slots=True)
class Plan:
    """A call that may run."""

    decision: Decision
    call: Call
    spec: SandboxSpec
    controls: frozenset[Control]
    max_concurrent: int | None


class Planner:
    """Decides by the policies, the tools' schemas and what the runtime can enforce."""

    def __init__(
        self,
        runtime: Runtime,
        probe: Probe,
        catalog: Catalog,
        environment: Mapping[str, str],
        extensions: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._runtime = runtime
        self._probe = probe
        self._catalog = catalog
        self._environment = environment
        self._extensions = extensions

    def call(self, operator: Policy, request: ToolRequest, named: NamedSandbox | None) -> Plan:
        """Raises SandboxError: `not_found` for a tool, `invalid_request` for its arguments,
        `policy_denied`, `approval_required` or `policy_unenforceable`."""
        tool = self._catalog.find(request.tool)
        layers, effective = _layers(operator, named.policy if named else None, request.policy)
        self._catalog.check(tool, request.args)
        capabilities = frozenset(str(capability) for capability in tool.capabilities)
        decision = compile_policy(layers).decide(tool.name, capabilities, request.args)
        _obey(decision)
        self.enforceable(effective)
        spec = sandbox_spec(effective, self._extensions)
        if named is not None:
            _same_walls(named.spec, spec)
        return Plan(
            decision=decision,
            call=guest_call(tool.name, request.args, effective, self._environment),
            spec=spec,
            controls=required_controls(effective),
            max_concurrent=effective.max_concurrent,
        )

    def sandbox(self, operator: Policy, asked: Policy | None) -> SandboxSpec:
        """What a named sandbox is built with. Raises SandboxError as `call` does."""
        _, effective = _layers(operator, asked, None)
        self.enforceable(effective)
        return sandbox_spec(effective, self._extensions)

    def tools(self, policy: Policy) -> list[ToolSpec]:
        """The tools that a policy does not rule out altogether."""
        names = policy.tools or ()
        allowed = policy.capabilities
        return [
            tool
            for tool in self._catalog
            if ("*" in names or tool.name in names)
            and (allowed is None or set(tool.capabilities) <= set(allowed))
        ]

    def enforceable(self, policy: Policy) -> None:
        """Raises SandboxError `policy_unenforceable` naming what this runtime cannot
        enforce on this host, and what would mend it."""
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
        if needs_egress(policy):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"the policy allows named hosts (network); runtime {self._runtime.name} has no "
                "way out of its sandboxes. Leave network.hosts and network.cidrs empty",
            )


def unenforceable(runtime: str, probe: Probe, missing: Iterable[Control]) -> SandboxError:
    """Names each control that is missing, and its mend where one is known."""
    names = sorted(missing)
    mends = [
        f"{name}: {status.mend}"
        for name in names
        if (status := probe.controls.get(name)) is not None and status.mend
    ]
    hint = "; ".join(mends) or "choose another -runtime, or a policy that does not mention it"
    return SandboxError(
        ErrorCode.POLICY_UNENFORCEABLE,
        f"runtime {runtime} cannot enforce {', '.join(names)} on this host; to mend it: {hint}",
    )


def _layers(
    operator: Policy, sandbox: Policy | None, call: Policy | None
) -> tuple[tuple[Policy, Policy, Policy], Policy]:
    """The layers, outermost first, and the policy that they come to together."""
    effective = operator
    for asked, who in ((sandbox, "sandbox"), (call, "call")):
        if asked is not None:
            effective = narrow(effective, asked, who)
    return (operator, sandbox or _NOTHING_ASKED, call or _NOTHING_ASKED), effective


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
    raise Refused(code, f"{verb} by {decision.rule}: {decision.reason}", decision)


def _same_walls(built: SandboxSpec, asked: SandboxSpec) -> None:
    for name in LIMITS:
        have, want = getattr(built, name), getattr(asked, name)
        if have != want:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"{name} is fixed when a sandbox is created (here {have}) and cannot be {want} "
                f"for one call; create a sandbox with {name}: {want}",
            )
