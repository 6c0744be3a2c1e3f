"""What the jail can enforce on this host, found by building one and looking at it from outside."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import SandboxError

from .. import kept
from ..base import THROUGH_THE_DAEMON, ControlStatus, Probe, SandboxSpec
from ..proof.proven import proven
from ..toolrunner import toolrunner_archive
from .mounts import MEND, find_mechanism

if TYPE_CHECKING:
    from .launch import LauncherName
    from .runtime import JailRuntime

OLDEST_BWRAP = (0, 8, 0)
"""The first with `--disable-userns` and `--size`."""
_BWRAP_DIRECTORIES = ("/usr/bin", "/usr/local/bin", "/bin")
_PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
_DELEGATE = "systemd-run --user --scope -p Delegate=yes mas-sandboxd ... (or run it as root)"
_OF_GROUPS = {
    Control.MEMORY: (", swap off", _DELEGATE),
    Control.CPU: ("", _DELEGATE),
    Control.PIDS: ("", _DELEGATE),
    Control.CPU_TIME: (" around the jail, and the toolrunner's sum over the tree", _DELEGATE),
    Control.IO: (
        " on the disks behind /usr and host directories",
        f"{_DELEGATE}, with /usr on a file system that lies on one disk",
    ),
}


@dataclass(frozen=True, slots=True)
class Tools:
    """The programs a jail is made with, whether the kernel has Landlock, and by what means
    host directories get in, if any does. `launcher`: what starts them here."""

    bwrap: str
    version: str
    python: str
    landlock: bool = False
    host_paths: str = ""
    launcher: LauncherName = "bubblewrap"


def find_tools() -> Tools | Probe:
    """The programs, or an unavailable Probe that says which is missing and what installs it."""
    if platform.system() != "Linux":
        return Probe(False, reason="the jail needs Linux", mend="use -runtime microvm, or local")
    bwrap = shutil.which("bwrap", path=":".join(_BWRAP_DIRECTORIES))
    if bwrap is None:
        return Probe(False, reason="bubblewrap is not installed", mend="apt-get install bubblewrap")
    version = _said([bwrap, "--version"]).rpartition(" ")[2]
    if _numbers(version) < OLDEST_BWRAP:
        return Probe(
            False,
            version,
            f"bubblewrap {version} is older than 0.8.0",
            "apt-get install bubblewrap from Debian 12, Ubuntu 24.04 or newer",
        )
    python = next(filter(_suitable, _PYTHONS), None)
    if python is None:
        return Probe(
            False,
            version,
            "there is no Python 3.11 or newer below /usr, which is all that a jail sees",
            "apt-get install python3",
        )
    return Tools(bwrap, version, python)


async def probe_jail(
    runtime: JailRuntime, launcher: LauncherName, groups: Mapping[Control, str], kept_in: Path
) -> tuple[Probe, Tools | None]:
    """Build a jail without limits, look at its processes, and take it down again. Where
    `launcher` cannot build one, bubblewrap is to.

    What was found is kept in `kept_in`, a directory that a reboot clears, under a
    name made of everything the answer depends on.
    """
    fingerprint = _fingerprint(launcher)
    path = kept_in / f"probe-jail-{fingerprint}.json"
    tools = kept.read(path, lambda fields: Tools(**fields))
    if tools is None:
        found = find_tools()
        if isinstance(found, Probe):
            return found, None
        built = await _build_first(runtime, found, launcher)
        if isinstance(built, Probe):
            return built, None
        tools = built
        kept.keep(path, asdict(tools))
    programs = tools
    controls = await proven(
        runtime.name,
        fingerprint,
        claims(groups, landlock=tools.landlock, host_paths=tools.host_paths),
        lambda spec: runtime.start_with(programs, spec),
        kept_in,
    )
    facts = {"launcher": tools.launcher}
    return Probe(True, tools.version, controls=controls, facts=facts), tools


async def _build_first(runtime: JailRuntime, found: Tools, launcher: LauncherName) -> Tools | Probe:
    """What a jail of this launcher showed, or one of bubblewrap's where that builds none which
    is whole; why neither does."""
    seen = await _build_with(runtime, replace(found, launcher=launcher))
    if isinstance(seen, Probe) and launcher != found.launcher:
        await runtime.give_up(launcher)
        seen = await _build_with(runtime, found)
    return seen


async def _build_with(runtime: JailRuntime, tools: Tools) -> Tools | Probe:
    """`tools`, with what a jail of theirs showed; what is wrong with it."""
    try:
        sandbox = await runtime.start_with(tools, SandboxSpec())
    except SandboxError as error:
        return Probe(False, tools.version, error.message, _mend_namespaces())
    async with sandbox:
        problem = posture_problem(sandbox.init)
    if problem:
        return Probe(False, tools.version, problem, "use a stronger runtime")
    return replace(
        tools,
        landlock=Control.PATHS in sandbox.enforced,
        host_paths=find_mechanism(_said([tools.bwrap, "--help"])),
    )


def posture_problem(first_process: int) -> str:
    """What is wrong with a jail's processes as the host sees them; empty when nothing is."""
    try:
        return _seen_problem(first_process)
    except OSError as error:
        return f"a jailed process cannot be looked at: {error}"


def _seen_problem(first_process: int) -> str:
    for process in (first_process, *_children(first_process)):
        status = _status(process)
        if "0" in status["Uid"].split():
            return "a jailed process runs as the host's root"
        if int(status["CapEff"], 16) or int(status["CapBnd"], 16):
            return "a jailed process holds capabilities"
        if status["NoNewPrivs"] != "1":
            return "a jailed process can gain privileges"
        if status["Seccomp"] != "2":
            return "the system call filter is not in force"
        for name in ("user", "mnt", "pid", "net", "ipc", "uts"):
            if _namespace(process, name) == _namespace(os.getpid(), name):
                return f"a jailed process shares the host's {name} namespace"
    return ""


def claims(
    groups: Mapping[Control, str], *, landlock: bool, host_paths: str
) -> dict[Control, ControlStatus]:
    """What a jail can hold by what was found, before it is put to the proof."""
    controls = {
        Control.TIMEOUT: ControlStatus(True, "toolrunner, then the end of the PID namespace"),
        Control.OUTPUT: ControlStatus(True, "toolrunner and daemon both count"),
        Control.ENV: ControlStatus(True, "bubblewrap is started with an empty environment"),
        Control.FILESYSTEM: ControlStatus(True, "mount namespace, read-only /usr"),
        Control.NETWORK: ControlStatus(True, "empty network namespace"),
        Control.PROCESSES: ControlStatus(True, "PID and IPC namespaces, a uid of its own"),
        Control.EGRESS: ControlStatus(True, THROUGH_THE_DAEMON),
        Control.BANDWIDTH: ControlStatus(True, THROUGH_THE_DAEMON),
        Control.SYSCALLS: ControlStatus(True, "seccomp filter"),
        Control.DISK: ControlStatus(True, "tmpfs with a size"),
        Control.DISK_FILES: ControlStatus(True, "tmpfs with a number of inodes"),
        Control.NOFILE: ControlStatus(True, "RLIMIT_NOFILE, which no process can raise"),
        Control.PATHS: ControlStatus(
            landlock, "Landlock", "" if landlock else "boot a kernel with Landlock (Linux 5.13)"
        ),
        Control.HOST_PATHS: ControlStatus(
            bool(host_paths), host_paths or "bind mounts", "" if host_paths else MEND
        ),
    }
    for control, (what, mend) in _OF_GROUPS.items():
        version = groups.get(control)
        controls[control] = ControlStatus(
            version is not None, f"{version or 'cgroup'}{what}", "" if version else mend
        )
    return controls


def _suitable(python: str) -> bool:
    """Whether a jail can run its toolrunner with it: below /usr, 3.11 or newer."""
    if not os.access(python, os.X_OK) or not str(Path(python).resolve()).startswith("/usr/"):
        return False
    said = _said([python, "-I", "-S", "-c", "import sys; print(*sys.version_info[:2])"])
    return [int(part) for part in said.split()] >= [3, 11]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def _said(argv: list[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=10, env={}, check=False)
    return result.stdout.strip()


def _mend_namespaces() -> str:
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (off, setting) in switches.items():
        try:
            if Path(path).read_text().strip() == off:
                return f"sysctl -w {setting}"
        except OSError:
            continue
    return "allow user namespaces for unprivileged users, or use -runtime microvm"


def _fingerprint(launcher: LauncherName) -> str:
    """A name that changes with the kernel, the user, a program, or this package."""
    facts = [platform.release(), str(os.geteuid()), toolrunner_archive().name, launcher]
    candidates = [*_PYTHONS, *(f"{directory}/bwrap" for directory in _BWRAP_DIRECTORIES)]
    for path in (*candidates, __file__):
        try:
            status = Path(path).stat()
        except OSError:
            continue
        facts += [path, str(status.st_ino), str(status.st_mtime_ns), str(status.st_size)]
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _children(process: int) -> list[int]:
    return [
        int(path.name)
        for path in Path("/proc").iterdir()
        if path.name.isdigit() and _parent(path) == process
    ]


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return -1


def _namespace(process: int, name: str) -> str:
    return str(Path(f"/proc/{process}/ns/{name}").readlink())
