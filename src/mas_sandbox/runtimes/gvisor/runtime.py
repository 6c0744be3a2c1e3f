"""gVisor: a kernel in user space around every sandbox, through runsc."""

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
from ..jail.layout import toolrunner_command
from ..jail.mounts import JailMounts, open_mounts
from ..local import greet
from ..ownership import Ownership
from ..pid_namespace import end_all, first_process
from ..process import ChildProcess
from ..toolrunner import toolrunner_archive
from .bundle import configuration
from .layout import plan_runsc, runsc_command
from .probe import probe_gvisor
from .programs import Tools
from .users import two_users

OWN_MEMORY_MB = 64
"""What runsc, its gofer and its sandbox process take for themselves, beside the guest's."""
OWN_THREADS = 256
"""Threads that they take for themselves; some 35 when nothing runs."""
THREADS_EACH = 32
"""Threads of the host behind one of the guest's, at most; 10 were seen with ptrace."""
_CHANNEL = 0  # the only descriptors that every runsc passes on are standard input and output


class GvisorSandbox(GroupedSandbox):
    """A running sandbox. `init`: the host's id of the first process of its PID namespace,
    outside gVisor; runsc's processes are beneath it."""


class GvisorRuntime(Runtime):
    """Starts one runsc for each sandbox."""

    name = "gvisor"
    isolation = Isolation.KERNEL

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
            self._probe, self._tools = await probe_gvisor(
                self, self._cgroups.controls, self._ownership.directory
            )
        return self._probe

    async def start(self, spec: SandboxSpec) -> GvisorSandbox:
        probe = await self.probe()
        if self._tools is None:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{probe.reason}; to mend it: {probe.mend}")
        refuse_unenforceable("gVisor", spec, probe)
        sandbox = await self.start_with(self._tools, spec)
        sandbox.enforced &= probe.enforced
        return sandbox

    async def start_with(self, tools: Tools, spec: SandboxSpec) -> GvisorSandbox:
        """Start a sandbox with these programs, probed or not."""
        try:
            return await self._start(tools, spec)
        except (OSError, subprocess.SubprocessError) as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the gVisor sandbox could not be built: {error}"
            ) from error

    async def _start(self, tools: Tools, spec: SandboxSpec) -> GvisorSandbox:
        self._count += 1
        name = self._ownership.name(str(self._count))
        async with AsyncExitStack() as undo:
            user = self._take_user(undo)
            group = self._cgroups.create(str(self._count), self._outside(spec))
            undo.push_async_callback(group.remove)
            with ExitStack() as inherited:
                mounts, users = self._mounts(tools, spec, user, undo, inherited)
                process, ours, info = self._launch(
                    tools, spec, user, users, group, mounts, undo, inherited
                )
            channel = await open_channel(ours)
            undo.push_async_callback(channel.aclose)
            await greet(channel, spec, name, process)
            init = first_process(info)
            undo.push_async_callback(end_all, os.pidfd_open(init))
            sandbox = GvisorSandbox(name, channel, _ALWAYS | spec.limits, init, group)
            sandbox.releases = undo.pop_all()
            return sandbox

    async def close(self) -> None:
        self._ownership.close()

    def _take_user(self, undo: AsyncExitStack) -> int | None:
        user = self._identities.take()
        undo.callback(self._identities.give_back, user)
        return user

    def _mounts(
        self,
        tools: Tools,
        spec: SandboxSpec,
        user: int | None,
        undo: AsyncExitStack,
        inherited: ExitStack,
    ) -> tuple[JailMounts, int | None]:
        """The host directories, and the user namespace in which they are the sandbox's."""
        if not spec.mounts or user is None:
            return JailMounts(), None
        guest = self._take_user(undo)
        assert guest is not None
        directory = self._ownership.directory
        protected = (directory, *self._protected)
        mounts = open_mounts(
            spec.mounts, tools.host_paths, guest, directory, protected, inherited, server=user
        )
        users = two_users(user, guest)
        inherited.callback(os.close, users)
        return mounts, users

    def _launch(
        self,
        tools: Tools,
        spec: SandboxSpec,
        user: int | None,
        users: int | None,
        group: Group,
        mounts: JailMounts,
        undo: AsyncExitStack,
        inherited: ExitStack,
    ) -> tuple[ChildProcess, socket.socket, int]:
        """Start bubblewrap and runsc in it; our end of the channel, and the descriptor that
        bubblewrap tells of itself on.

        They are in their control group before they run, and have what they are told from a
        pipe, so that nothing shows in a command line.
        """
        if self._runner is None:
            self._runner = toolrunner_archive().read_bytes()
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        inherited.enter_context(theirs)
        info, info_writer = os.pipe()
        undo.callback(os.close, info)
        inherited.callback(os.close, info_writer)
        plan = plan_runsc(
            runner=self._runner,
            configuration=configuration(
                spec,
                toolrunner_command(tools.python, _CHANNEL),
                mounts.binds,
                returns_errors=tools.returns_errors,
            ),
            binds=mounts.binds,
            users=users,
            info=info_writer,
            kvm=tools.platform == "kvm",
            mends_statx=tools.mends_statx,
            undo=inherited,
        )
        arguments_reader, arguments_writer = os.pipe()
        inherited.callback(os.close, arguments_reader)
        with os.fdopen(arguments_writer, "wb", 0) as arguments:
            process = ChildProcess(
                [
                    *(tools.bwrap, "--args", str(arguments_reader), "--"),
                    *runsc_command(tools.runsc, tools.flags, tools.platform),
                ],
                pass_fds=(arguments_reader, *plan.descriptors),
                environment={},
                user=user,
                groups=group.entrances(inherited),
                stdin=theirs.fileno(),
                supplementary=tools.supplementary,
                enter=mounts.enter,
            )
            undo.push_async_callback(_end, process)
            arguments.write(plan.encoded())
        return process, ours, info

    def _outside(self, spec: SandboxSpec) -> Limits:
        """What the control group holds: the guest's limits and what gVisor itself takes. The
        guest's processes are counted inside (RLIMIT_NPROC); here their threads are bounded."""
        return Limits(
            mem_mb=None if spec.mem_mb is None else spec.mem_mb + OWN_MEMORY_MB,
            cpus=spec.cpus,
            pids=None if spec.pids is None else spec.pids * THREADS_EACH + OWN_THREADS,
            count_cpu=True,
        )


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM, Control.NOFILE),
        *(Control.NETWORK, Control.PROCESSES, Control.SYSCALLS, Control.DISK),
    }
)
"""In force in every sandbox that started."""


async def _end(process: ChildProcess) -> None:
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
