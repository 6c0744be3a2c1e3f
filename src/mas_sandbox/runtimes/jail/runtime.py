"""The jail: namespaces, seccomp, Landlock and control groups."""

from __future__ import annotations

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
from ..toolrunner import toolrunner_archive
from .bubblewrap import Bubblewrap
from .launch import Launcher, LauncherName, Order, named_launcher
from .layout import SCRATCH, SCRATCH_MB
from .mounts import JailMounts, open_mounts
from .probe import Tools, probe_jail
from .scratch_files import limit_files
from .zygote import Zygote


class JailSandbox(GroupedSandbox):
    """A running jail. `init`: the host's id of the jail's first process."""


class JailRuntime(Runtime):
    """Starts one jail for each sandbox."""

    name = "jail"
    isolation = Isolation.PROCESS

    def __init__(
        self,
        ownership: Ownership,
        cgroups: Cgroups | None = None,
        protected: tuple[Path, ...] = (),
        launcher: LauncherName | None = None,
    ) -> None:
        """`protected`: directories of the daemon's that no sandbox may be given; `launcher`:
        what starts jails, where it can, else bubblewrap does; by default what the environment
        names. Raises SandboxError `invalid_request` where that is no launcher."""
        self._ownership = ownership
        self._protected = protected
        self._cgroups = cgroups or Cgroups(ownership)
        self._identities = Identities()
        self._count = 0
        self._launcher = launcher or named_launcher()
        self._launchers: dict[LauncherName, Launcher] = {}
        self._runner: bytes | None = None
        self._tools: Tools | None = None
        self._probe: Probe | None = None

    async def probe(self) -> Probe:
        if self._probe is None:
            self._probe, self._tools = await probe_jail(
                self, self._launcher, self._cgroups.controls, self._ownership.directory
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
        launcher = self._launcher_of(tools, spec)
        async with AsyncExitStack() as undo:
            user = self._identities.take()
            undo.callback(self._identities.give_back, user)
            group = self._cgroups.create(str(self._count), self._limits(launcher, spec))
            undo.push_async_callback(group.remove)
            with ExitStack() as opened:
                mounts = self._mounts(tools, spec, user, opened)
                order, ours = self._order(spec, user, group, mounts, opened, undo)
                launched = await launcher.launch(order, undo)
            channel = await open_channel(ours)
            undo.push_async_callback(channel.aclose)
            enforced = _ALWAYS | spec.limits | await greet(channel, spec, name, launched.process)
            init = launched.first_process(undo)
            if spec.disk_files is not None:
                given = {mount.path for mount in spec.mounts}
                await limit_files(init, spec.disk_files, [p for p in SCRATCH if p not in given])
            sandbox = JailSandbox(name, channel, enforced, init, group)
            sandbox.releases = undo.pop_all()
            return sandbox

    async def give_up(self, name: LauncherName) -> None:
        """Release what a launcher holds that is not to be used."""
        launcher = self._launchers.pop(name, None)
        if launcher is not None:
            await launcher.close()

    async def close(self) -> None:
        for name in list(self._launchers):
            await self.give_up(name)
        self._ownership.close()

    def _mounts(
        self, tools: Tools, spec: SandboxSpec, user: int | None, undo: ExitStack
    ) -> JailMounts:
        directory = self._ownership.directory
        protected = (directory, *self._protected)
        return open_mounts(spec.mounts, tools.host_paths, user, directory, protected, undo)

    def _order(
        self,
        spec: SandboxSpec,
        user: int | None,
        group: Group,
        mounts: JailMounts,
        inherited: ExitStack,
        undo: AsyncExitStack,
    ) -> tuple[Order, socket.socket]:
        """What the jail is started with, and our end of its channel."""
        ours, theirs = socket.socketpair()
        undo.callback(ours.close)
        inherited.enter_context(theirs)
        order = Order(
            channel=theirs.fileno(),
            user=user,
            entrances=group.entrances(inherited),
            environment=dict(spec.env),
            mounts=mounts,
            scratch_mb=SCRATCH_MB if spec.disk_mb is None else spec.disk_mb,
        )
        return order, ours

    def _launcher_of(self, tools: Tools, spec: SandboxSpec) -> Launcher:
        # What bubblewrap binds, the kernel locks: the jail's own namespace cannot change it.
        name: LauncherName = "bubblewrap" if spec.mounts else tools.launcher
        launcher = self._launchers.get(name)
        if launcher is None:
            launcher = (
                Bubblewrap(tools.bwrap, tools.python, self._archive())
                if name == "bubblewrap"
                else Zygote(tools.python, self._archive())
            )
            self._launchers[name] = launcher
        return launcher

    def _archive(self) -> bytes:
        if self._runner is None:
            self._runner = toolrunner_archive().read_bytes()
        return self._runner

    def _limits(self, launcher: Launcher, spec: SandboxSpec) -> Limits:
        pids = None if spec.pids is None else spec.pids + launcher.own_processes
        io = io_limit(spec, ["/usr"], self._cgroups)
        return Limits(spec.mem_mb, spec.cpus, pids, io, count_cpu=True)


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
        *(Control.NETWORK, Control.PROCESSES, Control.SYSCALLS, Control.DISK, Control.NOFILE),
    }
)
"""In force in every jail that started: what starts it fails when it cannot put one up."""
