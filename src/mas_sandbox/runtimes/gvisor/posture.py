"""runsc's processes as the host sees them (proc_pid_status(5), namespaces(7))."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts")


def posture_problem(first_process: int) -> str:
    """What is wrong with a sandbox's processes; empty when nothing is.

    `first_process`: the host's id of the first process of its PID namespace.
    """
    processes = [first_process, *descendants(first_process)]
    roles = {role: pid for pid in processes if (role := _role(pid)) is not None}
    if roles.keys() != {"gofer", "sandbox"}:
        return "runsc has no gofer or no sandbox process"
    for process in processes:
        problem = _problem(process)
        if problem:
            return problem
    for role, process in roles.items():
        if _status(process)["Seccomp"] != "2":
            return f"runsc's {role} process is under no system call filter"
    # The sandbox process has given up the one user namespace in which the others have rights.
    if _namespace(roles["sandbox"], "user") == _namespace(first_process, "user"):
        return "runsc's sandbox process has no user namespace of its own"
    return ""


def _problem(process: int) -> str:
    status = _status(process)
    if "0" in status["Uid"].split() + status["Gid"].split():
        return "a process of the sandbox runs as the host's root"
    if status["NoNewPrivs"] != "1":
        return "a process of the sandbox can gain privileges"
    for name in _NAMESPACES:
        if _namespace(process, name) == _namespace(os.getpid(), name):
            return f"a process of the sandbox shares the host's {name} namespace"
    return ""


def _role(process: int) -> str | None:
    name = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode("utf-8", "replace")
    return name.removeprefix("runsc-") if name.startswith("runsc-") else None


def descendants(process: int) -> list[int]:
    """The host's ids of all that it started, and they; those that end meanwhile may lack."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _namespace(process: int, name: str) -> str:
    return str(Path(f"/proc/{process}/ns/{name}").readlink())
