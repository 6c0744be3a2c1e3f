"""What gVisor can enforce on this host, found by building a sandbox and attacking it."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import SandboxError

from .. import kept
from ..base import ControlStatus, Probe, SandboxSpec
from ..proof.proven import proven
from ..toolrunner import toolrunner_archive
from .attempts import attempt
from .posture import posture_problem
from .programs import RUNSC_DIRECTORIES, Tools, find_programs
from .version import warning

if TYPE_CHECKING:
    from .runtime import GvisorRuntime

PLATFORMS = ("systrap", "kvm", "ptrace")
"""How gVisor gets hold of a system call. Fastest first; the last works everywhere."""
_BY_DAEMON = "the daemon decides, resolves and dials; no network device"
_DELEGATE = "systemd-run --user --scope -p Delegate=yes mas-sandboxd ... (or run it as root)"
_AS_ROOT = "run the daemon as root on Linux 5.12 or newer, or use -runtime jail"
_NEWER = "install a current release of runsc from gvisor.dev"
_ELSEWHERE = "use -runtime jail or -runtime microvm"


async def probe_gvisor(
    runtime: GvisorRuntime, groups: Mapping[Control, str], kept_in: Path
) -> tuple[Probe, Tools | None]:
    """Start a sandbox with each platform in turn until one works, and attack it.

    What was found is kept in `kept_in`, a directory that a reboot clears, under a name
    made of everything the answer depends on.
    """
    path = kept_in / f"probe-gvisor-{_fingerprint()}.json"
    tools = kept.read(path, _parse)
    if tools is None:
        found = find_programs()
        if isinstance(found, Probe):
            return found, None
        outcome = await try_platforms(runtime, found)
        if isinstance(outcome, Probe):
            return outcome, None
        tools = outcome
        kept.keep(path, asdict(tools))
    found_tools = tools
    controls = await proven(
        "gvisor",
        path.name,
        claims(groups, host_paths=tools.host_paths),
        lambda spec: runtime.start_with(found_tools, spec),
        kept_in,
    )
    return Probe(
        True,
        f"{tools.release}, platform {tools.platform}",
        controls=controls,
        taken_by_auto=False,
        warning=warning(tools.release),
    ), tools


async def try_platforms(runtime: GvisorRuntime, found: Tools) -> Tools | Probe:
    failures = []
    for name in PLATFORMS:
        tools = replace(found, platform=name)
        try:
            async with await runtime.start_with(tools, SandboxSpec()) as sandbox:
                problem = posture_problem(sandbox.init)
                findings = await attempt(sandbox)
        except SandboxError as error:
            failures.append(f"{name}: {error.message.strip().rpartition(chr(10))[2]}")
            continue
        problem = problem or findings.problem
        if problem:
            return Probe(False, str(found.release), problem, _NEWER)
        return replace(
            tools, returns_errors=findings.returns_errors, mends_statx=findings.mends_statx
        )
    return Probe(
        False,
        str(found.release),
        "no platform of gVisor starts: " + " | ".join(failures),
        "allow user namespaces for unprivileged users and ptrace between a user's own processes",
    )


def claims(groups: Mapping[Control, str], *, host_paths: str) -> dict[Control, ControlStatus]:
    """What gVisor can hold by what was found, before it is put to the proof."""
    claimed = {
        Control.TIMEOUT: ControlStatus(True, "toolrunner, then the end of the PID namespace"),
        Control.OUTPUT: ControlStatus(True, "toolrunner and daemon both count"),
        Control.ENV: ControlStatus(True, "runsc is started with an empty environment"),
        Control.FILESYSTEM: ControlStatus(True, "gVisor's gofer in a root of its own, /usr only"),
        Control.NETWORK: ControlStatus(True, "gVisor's network stack with loopback only"),
        Control.EGRESS: ControlStatus(True, _BY_DAEMON),
        Control.BANDWIDTH: ControlStatus(True, _BY_DAEMON),
        Control.PROCESSES: ControlStatus(True, "gVisor's processes, a uid of its own outside"),
        Control.SYSCALLS: ControlStatus(True, "gVisor's kernel, and a filter before it"),
        Control.NOFILE: ControlStatus(True, "RLIMIT_NOFILE in gVisor's kernel"),
        Control.PIDS: ControlStatus(True, "RLIMIT_NPROC in gVisor's kernel"),
        Control.DISK: ControlStatus(True, "tmpfs with a size in gVisor's kernel"),
        Control.DISK_FILES: ControlStatus(False, "tmpfs, where gVisor counts none", _ELSEWHERE),
        Control.IO: ControlStatus(False, "cgroup, which sees none of gVisor's reads", _ELSEWHERE),
        Control.PATHS: ControlStatus(False, "Landlock, which gVisor has not", _ELSEWHERE),
        Control.HOST_PATHS: ControlStatus(
            bool(host_paths), host_paths or "bind mounts", "" if host_paths else _AS_ROOT
        ),
    }
    for control in (Control.MEMORY, Control.CPU, Control.CPU_TIME):
        group = groups.get(control)
        claimed[control] = ControlStatus(
            group is not None, group or "cgroup", "" if group else _DELEGATE
        )
    return claimed


def _fingerprint() -> str:
    """A name that changes with the kernel, the user, a program, or this package."""
    facts = [platform.release(), str(os.geteuid()), toolrunner_archive().name]
    programs = [f"{directory}/runsc" for directory in RUNSC_DIRECTORIES]
    here = sorted(str(path) for path in Path(__file__).parent.glob("*.py"))
    for path in ("/usr/bin/bwrap", "/usr/local/bin/bwrap", "/usr/bin/python3", *programs, *here):
        try:
            status = Path(path).stat()
        except OSError:
            continue
        facts += [path, str(status.st_ino), str(status.st_mtime_ns), str(status.st_size)]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _parse(fields: dict[str, Any]) -> Tools:
    return Tools(**fields | {"flags": tuple(fields["flags"])})
