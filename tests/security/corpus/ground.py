"""Where attempts are made: one runtime's sandboxes, and the host as it must stay."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.gvisor.posture import descendants
from mas_sandbox.runtimes.gvisor.runtime import GvisorSandbox
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.jail.seccomp_tables import MACHINES
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.proof.stage import Stage
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.messages import Call

from .entries import ENTRIES
from .world import DecoyWorld

WALLED = ("jail", "gvisor", "microvm")
TIMEOUT_MS = 60_000
CLOCK_SLACK_S = 0.5
_PRELUDE = f"""
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
NUMBERS = {dict(MACHINES[os.uname().machine].numbers)!r}
def broke(*what): print('broke', *what, flush=True)
def system(name, *arguments):
    number = NUMBERS.get(name, name)
    words = [a if isinstance(a, (bytes, ctypes.Array)) else ctypes.c_long(a) for a in arguments]
    return libc.syscall(ctypes.c_long(number), *words)
def quietly(act, *rest, **more):
    try: return act(*rest, **more)
    except (OSError, ValueError): return None
"""


@dataclass(frozen=True)
class Row:
    """One attempt under one id of the corpus. `act` makes it and looks at what came of it; that
    the host is as it was is looked at after every one."""

    id: str
    title: str
    act: Callable[[Ground], Awaitable[None]]

    def __str__(self) -> str:
        return f"{self.id}-{self.title.replace(' ', '-')}"


class Ground:
    """`sandbox`: shared by the rows that do it no harm; `stage` and `world`: what is there to
    be attacked; `said`: every output since the last look."""

    def __init__(self, runtime: Runtime, stage: Stage, world: DecoyWorld) -> None:
        self.runtime = runtime
        self.name = runtime.name
        self.stage = stage
        self.world = world
        self._said: list[bytes] = []
        self._shared: dict[SandboxSpec, Sandbox] = {}
        self._before = _host()

    async def sandbox(self, spec: SandboxSpec = SandboxSpec()) -> Sandbox:  # noqa: B008
        """The one that all rows with these limits share; another one where it did not live."""
        shared = self._shared.get(spec)
        if shared is not None and shared.channel.lost is None:
            return shared
        if shared is not None:
            await shared.stop()
        self._shared[spec] = shared = await self.runtime.start(spec)
        return shared

    @asynccontextmanager
    async def fresh(self, spec: SandboxSpec = SandboxSpec()) -> AsyncIterator[Sandbox]:  # noqa: B008
        async with await self.runtime.start(spec) as started:
            yield started

    async def close(self) -> None:
        for sandbox in self._shared.values():
            await sandbox.stop()

    async def run(self, call: Call, sandbox: Sandbox | None = None) -> CallOutcome:
        """Raises SandboxError, like `Sandbox.run`."""
        outcome = await (sandbox or await self.sandbox()).run(call)
        self._said += [outcome.stdout, outcome.stderr, outcome.message.encode()]
        self._said.append(repr(outcome.value).encode())
        return outcome

    async def bash(
        self, command: str, sandbox: Sandbox | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> CallOutcome:
        return await self.run(Call("bash", {"command": command}, timeout_ms=timeout_ms), sandbox)

    async def python(
        self, code: str, sandbox: Sandbox | None = None, timeout_ms: int = TIMEOUT_MS
    ) -> CallOutcome:
        """`broke(what)`, `system(name, *arguments)`, `quietly` and `libc` are there already."""
        call = Call("python", {"code": _PRELUDE + code}, timeout_ms=timeout_ms)
        return await self.run(call, sandbox)

    async def attempt(self, id: str, code: str, sandbox: Sandbox | None = None) -> CallOutcome:
        """Run a program that says `broke` for what succeeded. It has to get to its end, and
        where the corpus says so, nothing may have succeeded."""
        outcome = await self.python(f"{code}\nprint('tried', flush=True)\n", sandbox)
        lines = outcome.stdout.decode("utf-8", "replace").splitlines()
        assert "tried" in lines, (outcome.stdout, outcome.stderr, outcome.message)
        if ENTRIES[id].strict(self.name):
            assert [line for line in lines if line.startswith("broke")] == []
        return outcome

    async def alive(self, sandbox: Sandbox | None = None) -> bool:
        return (await self.bash("echo alive", sandbox)).stdout == b"alive\n"

    def unchanged(self) -> None:
        """The host is as it was: files, sockets, processes, settings; no packet has left."""
        assert self.world.arrived() == []
        assert self.world.reached() == []
        assert not self.stage.escaped(), "a file was written on the host"
        assert not self.stage.reached(), "a socket of the host's was reached"
        assert self.stage.given_is_whole()
        assert self.stage.sentinel.read_text() == self.stage.secret
        assert self.stage.victim.poll() is None, "a process of the host's was killed"
        said, self._said = b"".join(self._said), []
        assert self.stage.secret.encode() not in said, "a secret of the host's came out"
        after = _host()
        assert abs(after.pop("clock") - self._before["clock"]) < CLOCK_SLACK_S  # type: ignore[operator]
        assert after == {name: value for name, value in self._before.items() if name != "clock"}


def members(sandbox: Sandbox) -> list[int]:
    """The host's process ids of all that a sandbox is made of."""
    match sandbox:
        case JailSandbox() | GvisorSandbox():
            return [sandbox.init, *descendants(sandbox.init)]
        case MicrovmSandbox():
            return [sandbox.vm.pid, *descendants(sandbox.vm.pid)]
        case _:
            raise AssertionError(f"no wall around a {type(sandbox).__name__}")


async def fails(call: Awaitable[CallOutcome]) -> CallOutcome | None:
    """The outcome of a call that may cost its sandbox; None where it did."""
    try:
        return await call
    except SandboxError:
        return None


def _host() -> dict[str, object]:
    """What a program that got out would have changed. Files are told by size and time."""
    files = [
        Path("/usr"),
        Path("/etc/passwd"),
        *(path for path in map(Path, _PROGRAMS) if path.exists()),
    ]
    return {
        "clock": time.time() - time.monotonic(),
        "name": socket.gethostname(),
        "core dumps": Path("/proc/sys/kernel/core_pattern").read_text(),
        "faults": Path("/proc/sys/kernel/tainted").read_text(),
    } | {str(file): _stamp(file) for file in files}


_PROGRAMS = (
    *("/usr/bin/bwrap", "/usr/bin/runsc", "/usr/bin/env", "/usr/bin/python3", "/bin/bash"),
    f"/usr/bin/qemu-system-{os.uname().machine}",
)


def _stamp(file: Path) -> tuple[int, int, int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_mode, status.st_ino
