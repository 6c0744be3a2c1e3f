"""Which runtime a daemon uses, and what this host can enforce."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

from .base import Probe, Runtime
from .ownership import EMULATED, Ownership, lock_directory

ISOLATIONS: Mapping[str, Isolation] = {
    "local": Isolation.NONE,
    "jail": Isolation.PROCESS,
    "gvisor": Isolation.KERNEL,
    "microvm": Isolation.VM,
}
"""What each runtime is to be a wall of, weakest first."""
NAMES = tuple(ISOLATIONS)
CONFIGURED = ("microvm",)


def build_runtime(name: str, config: Path | None = None, state: Path | None = None) -> Runtime:
    """One runtime by name, not yet probed.

    `config`: the runtime's config file; `state`: the daemon's own directory. Raises
    SandboxError `invalid_request` for a name or a config file that does not fit.
    """
    if config is not None and name not in CONFIGURED:
        raise SandboxError(
            ErrorCode.INVALID_REQUEST,
            f"the {name} runtime has no settings; leave -runtime-config out",
        )
    match name:
        case "local":
            from .local import LocalRuntime

            return LocalRuntime(Ownership())
        case "jail":
            from .jail.runtime import JailRuntime

            return JailRuntime(Ownership(), protected=(state or _own_directory(),))
        case "gvisor":
            from .gvisor.runtime import GvisorRuntime

            return GvisorRuntime(Ownership(), protected=(state or _own_directory(),))
        case "microvm":
            from .microvm.config import load_config
            from .microvm.runtime import MicrovmRuntime

            read = None if config is None else load_config(config)
            directory = state or _own_directory()
            return MicrovmRuntime(Ownership(), directory / "microvm", read, (directory,))
        case _:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"there is no runtime {name!r}; there are auto, {', '.join(NAMES)}",
            )


async def choose_runtime(
    name: str, config: Path | None = None, state: Path | None = None
) -> tuple[Runtime, Probe]:
    """The named runtime, or for `auto` the strongest that passes its probe, never `local`.

    `config` and `state` as in `build_runtime`.

    Raises SandboxError `policy_unenforceable` with the reason and the mend when it
    is not available on this host.
    """
    names = _for_auto() if name == "auto" else [name]
    refusals = []
    for candidate in names:
        runtime = build_runtime(candidate, config, state)
        probe = await runtime.probe()
        if probe.available and (name != "auto" or probe.taken_by_auto):
            return runtime, probe
        await runtime.close()
        refusals.append(f"{candidate}: {probe.reason}; to mend it: {probe.mend}")
    raise SandboxError(ErrorCode.POLICY_UNENFORCEABLE, "no runtime: " + " | ".join(refusals))


async def probe_all(state: Path) -> dict[str, tuple[Isolation, Probe]]:
    """Every runtime's isolation and probe, for `doctor`."""
    probes = {}
    for name in NAMES:
        runtime = build_runtime(name, state=state)
        probes[name] = runtime.isolation, await runtime.probe()
        await runtime.close()
    return probes


def _for_auto() -> list[str]:
    """Strongest first. A machine is only tried where there is an image to boot and
    hardware that might run it, and did not fail to since the host was started."""
    from .microvm.image.store import CURRENT, image_directory

    hardware = os.access("/dev/kvm", os.R_OK | os.W_OK) or sys.platform == "darwin"
    failed = (lock_directory() / EMULATED).exists()
    if hardware and not failed and os.path.lexists(image_directory() / CURRENT):
        return ["microvm", "jail"]
    return ["jail"]


def _own_directory() -> Path:
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "mas-sandbox"
