"""Counts what a daemon could leave on its host: before and after must be equal."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.runtimes.cgroup import find_hierarchies
from mas_sandbox.runtimes.gvisor.runtime import GvisorSandbox
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.local import LocalSandbox
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox


@dataclass(frozen=True)
class Census:
    """Names of everything of ours on this host."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    temporary: frozenset[str]
    descriptors: frozenset[str]


def take() -> Census:
    """Everything that any daemon or sandbox on this host has made. For serial tests."""
    return Census(
        processes=frozenset(
            f"{process} {command}"
            for process, command in commands().items()
            if any(
                name in command
                for name in ("bwrap", "runsc", "toolrunner", "mas-sandbox", "qemu-system")
            )
        ),
        mounts=frozenset(
            line.split(" ", 1)[1] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        ),
        cgroups=frozenset(
            str(path)
            for hierarchy in find_hierarchies()
            for path in hierarchy.parent.glob("mas-sandbox-*")
        ),
        temporary=frozenset(
            str(path) for path in Path(tempfile.gettempdir()).glob("mas-sandbox-*")
        ),
        descriptors=frozenset(os.listdir("/proc/self/fd")),
    )


def commands() -> dict[int, str]:
    """Process id -> command line of every process."""
    found = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                found[int(path.name)] = (
                    (path / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                )
            except OSError:
                continue
    return found


def zygotes() -> set[int]:
    """The processes that fork for jails: a daemon's own, whether it has a sandbox or none."""
    return {process for process, words in commands().items() if " --zygote " in words}


def children(process: int) -> list[int]:
    """The processes whose parent is `process`."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            if parent == process:
                found.append(int(path.name))
    return found


def toolrunners(sandbox: Sandbox) -> list[int]:
    """The host's process ids of a sandbox's toolrunner, or of the monitor it is inside."""
    match sandbox:
        case JailSandbox():
            # bubblewrap stays as the first process; a zygote's fork is itself the toolrunner.
            of_bubblewrap = Path(f"/proc/{sandbox.init}/comm").read_text() == "bwrap\n"
            return children(sandbox.init) if of_bubblewrap else [sandbox.init]
        case GvisorSandbox():
            return [sandbox.init]  # outside, gVisor's processes cannot be told apart
        case LocalSandbox():
            return [sandbox.process.pid]
        case MicrovmSandbox():
            return [sandbox.vm.pid]
        case _:
            raise AssertionError(f"no way to find the toolrunner of a {type(sandbox).__name__}")
