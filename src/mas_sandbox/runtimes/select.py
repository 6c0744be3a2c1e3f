"""Which runtime a daemon uses, and what this host can enforce."""

from __future__ import annotations

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .base import Probe, Runtime
from .ownership import Ownership

NAMES = ("local", "jail")
"""Weakest first."""


def build_runtime(name: str) -> Runtime:
    """One runtime by name, not yet probed. Raises SandboxError `invalid_request`."""
    match name:
        case "local":
            from .local import LocalRuntime

            return LocalRuntime(Ownership())
        case "jail":
            from .jail.runtime import JailRuntime

            return JailRuntime(Ownership())
        case _:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"there is no runtime {name!r}; there are auto, {', '.join(NAMES)}",
            )


async def choose_runtime(name: str) -> tuple[Runtime, Probe]:
    """The named runtime, or for `auto` the strongest that passes its probe, never `local`.

    Raises SandboxError `policy_unenforceable` with the reason and the mend when it
    is not available on this host.
    """
    names = [each for each in reversed(NAMES) if each != "local"] if name == "auto" else [name]
    refusals = []
    for candidate in names:
        runtime = build_runtime(candidate)
        probe = await runtime.probe()
        if probe.available:
            return runtime, probe
        await runtime.close()
        refusals.append(f"{candidate}: {probe.reason}; to mend it: {probe.mend}")
    raise SandboxError(ErrorCode.POLICY_UNENFORCEABLE, "no runtime: " + " | ".join(refusals))


async def probe_all() -> dict[str, Probe]:
    """Every runtime's probe, for `doctor`."""
    probes = {}
    for name in NAMES:
        runtime = build_runtime(name)
        probes[name] = await runtime.probe()
        await runtime.close()
    return probes
