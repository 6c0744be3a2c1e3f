"""The jail: namespaces, seccomp, Landlock and control groups, through bubblewrap."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
from contextlib import AsyncExitStack, ExitStack, suppress

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

from ..base import Probe, Runtime, Sandbox, SandboxSpec
from ..cgroup import Cgroups, Group, Limits
from ..channel import Channel, open_channel
from ..identity import Identities
from ..local import greet
from ..ownership import Ownership
from ..process import ChildProcess
from ..toolrunner import toolrunner_archive
from .layout import SCRATCH_MB, plan_jail, toolrunner_command
from .probe import Tools, probe_jail
from .seccomp import jail_filter

OWN_PROCESSES = 3
"""bubblewrap outside, bubblewrap as the jail's first process, and the toolrunner."""


class JailSandbox(Sandbox):
    """A running jail. `init`: the host's id of the jail's first process."""

    def __init__(
        self, name: str, channel: Channel, enforced: frozenset[Control], init: int, group: Group
    ) -> None:
        self.id = name
        self.channel = channel
        self.enforced = enforced
        self.init = init
        self.releases = AsyncExitStack()
        self._group = group

    def oom_kills(self) -> int:
        return self._group.oom_kills()

    async def stop(self) -> None:
        await self.releases.aclose()


class JailRuntime(Runtime):
    """Starts one bubblewrap for each sandbox."""

    name = "jail"
    isolation = Isolation.PROCESS

    def __init__(self, ownership: Ownership, cgroups: Cgroups | None = None) -> None:
        self._ownership = ownership
        self._cgroups = cgroups or Cgroups(ownership)
        self._identities = Identities()
        self._count = 0
        self._runner: bytes | None = None
        self._tools: Tools | None = None
        self._probe: Probe | None = None

    async def probe(self) -> Probe:
        if self._probe is None:
            self._probe, self._tools = await probe_jail(
                self, self._cgroups.controls, self._ownership.directory
            )
        return self._probe

    async def start(self, spec: SandboxSpec) -> JailSandbox:
        probe = await self.probe()
        if self._tools is None:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{probe.reason}; to mend it: {probe.mend}")
        self._refuse_unenforceable(spec)
        return await self.start_with(self._tools, spec)

    async def start_with(self, tools: Tools, spec: SandboxSpec) -> JailSandbox:
        """Start a jail with these programs, probed or not."""
        try:
            return await self._start(tools, spec)
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the jail could not be built: {error}"
            ) from error

    async def _start(self, tools: Tools, spec: SandboxSpec) -> JailSandbox:
        self._count += 1
        name = self._ownership.name(str(self._count))
        async with AsyncExitStack() as undo:
            user = self._identities.take()
            undo.callback(self._identities.give_back, user)
            pids = None if spec.pids is None else spec.pids + OWN_PROCESSES
            limits = Limits(spec.mem_mb, spec.cpus, pids)
            group = self._cgroups.create(str(self._count), limits)
            undo.push_async_callback(group.remove)
            process, ours, info = self._launch(tools, spec, user, group, undo)
            undo.callback(os.close, info)
            channel = await open_channel(ours)
            undo.callback(channel.close)
            enforced = _ALWAYS | spec.limits | await greet(channel, spec, name, process)
            init = _first_process(info)
            undo.callback(_kill, os.pidfd_open(init))
            sandbox = JailSandbox(name, channel, enforced, init, group)
            sandbox.releases = undo.pop_all()
            return sandbox

    async def close(self) -> None:
        self._ownership.close()

    def _launch(
        self,
        tools: Tools,
        spec: SandboxSpec,
        user: int | None,
        group: Group,
        undo: AsyncExitStack,
    ) -> tuple[ChildProcess, socket.socket, int]:
        """Start bubblewrap; our end of the channel, and the descriptor it tells of itself on.

        It is in its control group before it runs, and has its arguments from a pipe, so
        that nothing of the jail is ever unlimited and nothing shows in its command line.
        """
        if self._runner is None:
            self._runner = toolrunner_archive().read_bytes()
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        with ExitStack() as inherited:
            inherited.enter_context(theirs)
            info_reader, info_writer = os.pipe()
            inherited.callback(os.close, info_writer)
            try:
                arguments_reader, arguments_writer = os.pipe()
                inherited.callback(os.close, arguments_reader)
                plan = plan_jail(
                    runner=self._runner,
                    seccomp=jail_filter(),
                    info=info_writer,
                    scratch_mb=SCRATCH_MB if spec.disk_mb is None else spec.disk_mb,
                    undo=inherited,
                )
                with os.fdopen(arguments_writer, "wb", 0) as arguments:
                    process = ChildProcess(
                        [
                            *(tools.bwrap, "--args", str(arguments_reader), "--"),
                            *toolrunner_command(tools.python, theirs.fileno()),
                        ],
                        pass_fds=(theirs.fileno(), arguments_reader, *plan.descriptors),
                        environment=dict(spec.env),
                        user=user,
                        groups=group.entrances(inherited),
                    )
                    undo.push_async_callback(_end, process)
                    arguments.write(plan.encoded())
            except BaseException:
                os.close(info_reader)
                raise
        return process, ours, info_reader

    def _refuse_unenforceable(self, spec: SandboxSpec) -> None:
        for control in sorted(spec.limits - {Control.DISK} - self._cgroups.controls.keys()):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"the jail cannot enforce {control} here: no control group can be made; "
                "run `mas-sandbox doctor` for the command that mends it",
            )


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
        *(Control.NETWORK, Control.PROCESSES, Control.SYSCALLS, Control.DISK),
    }
)
"""In force in every jail that started: bubblewrap fails when it cannot put one up."""


def _first_process(info: int) -> int:
    """The host's id of the jail's first process, as bubblewrap tells it on `--info-fd`.

    It was told before the toolrunner could answer, so there is nothing to wait for.
    """
    return int(json.loads(os.read(info, 4096))["child-pid"])


def _kill(first_process: int) -> None:
    """End the jail: with its first process the kernel kills every other in its namespace."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(first_process, signal.SIGKILL)
    os.close(first_process)


async def _end(process: ChildProcess) -> None:
    """End bubblewrap and wait until it, and so every process of the jail, is reaped."""
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
