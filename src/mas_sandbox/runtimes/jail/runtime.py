"""The jail: namespaces, seccomp, Landlock and control groups, through bubblewrap."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

from ..base import Probe, Runtime, SandboxSpec, refuse_unenforceable
from ..cgroup import Cgroups, Group, Limits
from ..channel import open_channel
from ..grouped import GroupedSandbox
from ..identity import Identities
from ..limits_io import io_limit
from ..local import greet
from ..ownership import Ownership
from ..pid_namespace import end_all, first_process
from ..process import ChildProcess
from ..toolrunner import toolrunner_archive
from .layout import SCRATCH, SCRATCH_MB, plan_jail, toolrunner_command
from .mounts import JailMounts, open_mounts
from .probe import Tools, probe_jail
from .scratch_files import limit_files
from .seccomp import jail_filter
from .seccomp_setuid import setuid_filter

OWN_PROCESSES = 3
"""bubblewrap outside, bubblewrap as the jail's first process, and the toolrunner."""


class JailSandbox(GroupedSandbox):
    """A running jail. `init`: the host's id of the jail's first process."""


class JailRuntime(Runtime):
    """Starts one bubblewrap for each sandbox."""

    name = "jail"
    isolation = Isolation.PROCESS

    def __init__(
        self,
        ownership: Ownership,
        cgroups: Cgroups | None = None,
        protected: tuple[Path, ...] = (),
    ) -> None:
        """`protected`: directories of the daemon's that no sandbox may be given."""
        self._ownership = ownership
        self._protected = protected
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
        refuse_unenforceable("jail", spec, probe)
        sandbox = await self.start_with(self._tools, spec)
        sandbox.enforced &= probe.enforced
        return sandbox

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
            group = self._cgroups.create(str(self._count), self._limits(spec))
            undo.push_async_callback(group.remove)
            with ExitStack() as opened:
                mounts = self._mounts(tools, spec, user, opened)
                process, ours, info = self._launch(tools, spec, user, group, mounts, undo)
            undo.callback(os.close, info)
            channel = await open_channel(ours)
            undo.push_async_callback(channel.aclose)
            enforced = _ALWAYS | spec.limits | await greet(channel, spec, name, process)
            init = first_process(info)
            undo.push_async_callback(end_all, os.pidfd_open(init))
            if spec.disk_files is not None:
                given = {mount.path for mount in spec.mounts}
                await limit_files(init, spec.disk_files, [p for p in SCRATCH if p not in given])
            sandbox = JailSandbox(name, channel, enforced, init, group)
            sandbox.releases = undo.pop_all()
            return sandbox

    async def close(self) -> None:
        self._ownership.close()

    def _mounts(
        self, tools: Tools, spec: SandboxSpec, user: int | None, undo: ExitStack
    ) -> JailMounts:
        directory = self._ownership.directory
        protected = (directory, *self._protected)
        return open_mounts(spec.mounts, tools.host_paths, user, directory, protected, undo)

    def _launch(
        self,
        tools: Tools,
        spec: SandboxSpec,
        user: int | None,
        group: Group,
        mounts: JailMounts,
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
                    seccomp=_filters(mounts),
                    info=info_writer,
                    scratch_mb=SCRATCH_MB if spec.disk_mb is None else spec.disk_mb,
                    undo=inherited,
                    binds=mounts.binds,
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
                        enter=mounts.enter,
                    )
                    undo.push_async_callback(_end, process)
                    arguments.write(plan.encoded())
            except BaseException:
                os.close(info_reader)
                raise
        return process, ours, info_reader

    def _limits(self, spec: SandboxSpec) -> Limits:
        pids = None if spec.pids is None else spec.pids + OWN_PROCESSES
        io = io_limit(spec, ["/usr"], self._cgroups)
        return Limits(spec.mem_mb, spec.cpus, pids, io, count_cpu=True)


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
        *(Control.NETWORK, Control.PROCESSES, Control.SYSCALLS, Control.DISK, Control.NOFILE),
    }
)
"""In force in every jail that started: bubblewrap fails when it cannot put one up."""


def _filters(mounts: JailMounts) -> list[bytes]:
    return [jail_filter(), setuid_filter()] if mounts.writable else [jail_filter()]


async def _end(process: ChildProcess) -> None:
    """End bubblewrap and wait until it is reaped."""
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
