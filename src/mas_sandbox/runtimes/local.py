"""The runtime without a wall: a toolrunner as a plain child process.

It exists for machines that have nothing better and for work on the tools
themselves. It says `isolation: "none"` in every reply, and `auto` never picks it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import sys
import tempfile
from contextlib import AsyncExitStack, suppress
from pathlib import Path

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

from .base import ControlStatus, Probe, Runtime, Sandbox, SandboxSpec, refuse_unenforceable
from .channel import Channel, open_channel
from .ownership import Ownership
from .process import ChildProcess, Ending
from .proof.proven import proven
from .stopped_tree import StoppedTree
from .toolrunner import toolrunner_archive

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 2.0

_CONTROLS = {
    Control.TIMEOUT: ControlStatus(True, "the toolrunner kills the call's process tree"),
    Control.OUTPUT: ControlStatus(True, "the toolrunner and the daemon both count"),
    Control.ENV: ControlStatus(True, "the environment is built from nothing"),
}
_MEND = "use -runtime jail, or a policy that does not mention it"


class LocalSandbox(Sandbox):
    """A toolrunner and the directory it works in."""

    enforced = frozenset(_CONTROLS)

    def __init__(self, name: str, channel: Channel, process: ChildProcess) -> None:
        self.id = name
        self.channel = channel
        self.process = process
        self._stopped = StoppedTree(process.pid)
        self.releases = AsyncExitStack()

    def oom_kills(self) -> int:
        return 0

    async def stop(self) -> None:
        await self._thaw()
        await self.releases.aclose()

    async def _freeze(self) -> None:
        await asyncio.to_thread(self._stopped.stop)

    async def _thaw(self) -> None:
        self._stopped.go_on()


class LocalRuntime(Runtime):
    """Runs the toolrunner with the daemon's own Python, as the daemon's own user."""

    name = "local"
    isolation = Isolation.NONE

    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership
        self._directory = Path(tempfile.gettempdir())
        self._count = 0
        self._probe: Probe | None = None
        self._reclaim()

    async def probe(self) -> Probe:
        if self._probe is None:
            version = sys.version.split()[0]
            facts = f"{sys.version} {os.geteuid()} {toolrunner_archive().name}"
            kept_in = self._ownership.directory
            controls = await proven(self.name, facts, claims(), self._start, kept_in)
            self._probe = Probe(available=True, version=version, controls=controls)
        return self._probe

    async def start(self, spec: SandboxSpec) -> Sandbox:
        refuse_unenforceable(self.name, spec, await self.probe())
        try:
            return await self._start(spec)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the sandbox could not be started: {error}"
            ) from error

    async def _start(self, spec: SandboxSpec) -> LocalSandbox:
        self._count += 1
        name = self._ownership.name(str(self._count))
        async with AsyncExitStack() as undo:
            place = self._directory / name
            place.mkdir(mode=0o700)
            undo.callback(shutil.rmtree, place, ignore_errors=True)
            workspace, temporary = place / "workspace", place / "tmp"
            workspace.mkdir()
            temporary.mkdir()
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            with theirs:
                process = ChildProcess(
                    [
                        *(sys.executable, "-I", "-S", str(toolrunner_archive())),
                        *("--fd", str(theirs.fileno()), "--workspace", str(workspace)),
                        *("--tmp", str(temporary)),
                    ],
                    pass_fds=(theirs.fileno(),),
                    environment=dict(spec.env),
                )
            undo.push_async_callback(_end, process)
            channel = await open_channel(ours)
            undo.push_async_callback(channel.aclose)
            await greet(channel, spec, name, process)
            sandbox = LocalSandbox(name, channel, process)
            sandbox.releases = undo.pop_all()
            return sandbox

    async def close(self) -> None:
        self._ownership.close()

    def _reclaim(self) -> None:
        """Remove the workspaces of dead daemons."""
        for path in self._ownership.left_in(self._directory):
            shutil.rmtree(path, ignore_errors=True)


def claims() -> dict[Control, ControlStatus]:
    """What a process without walls can be held to, before it is put to the proof."""
    return {
        control: _CONTROLS.get(control, ControlStatus(False, "none", _MEND)) for control in Control
    }


async def greet(
    channel: Channel, spec: SandboxSpec, name: str, process: Ending
) -> frozenset[Control]:
    """Welcome the toolrunner; returns the controls it put up itself.

    Raises SandboxError `sandbox_crash`, with what the process said, when it did not come up.
    """
    try:
        hello = await channel.welcome(
            dict(spec.extensions),
            name[-16:],
            START_TIMEOUT_S,
            mounts=[(mount.path, "rw" if mount.writable else "ro") for mount in spec.mounts],
            at_once=True,
        )
    except SandboxError as error:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await asyncio.shield(process.ended)
        said = process.stderr() or error.message
        raise SandboxError(ErrorCode.SANDBOX_CRASH, f"the sandbox did not start: {said}") from error
    return frozenset(Control(name) for name in hello.controls if name == Control.PATHS)


async def _end(process: ChildProcess) -> None:
    """Wait for a toolrunner that was told goodbye; kill it when it lingers."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await asyncio.shield(process.ended)
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
