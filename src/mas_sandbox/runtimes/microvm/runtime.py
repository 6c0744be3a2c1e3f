"""The microVM: a virtual machine for each sandbox, cloned from one that was booted before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation
from mas_sandbox.wire.messages import Hello

from ..base import ControlStatus, Probe, Runtime, Sandbox, SandboxSpec, refuse_unenforceable
from ..cgroup import Cgroups, Group, Limits
from ..channel import Channel, open_channel
from ..identity import Identities
from ..ownership import Ownership
from ..proof.proven import proven
from ..shares.server import serve_directories
from .config import MicrovmConfig
from .image.store import CURRENT
from .machine import MachinePlan
from .machine_group import create_machine_group
from .probe import fingerprint, probe_microvm
from .tap.network import TapNetwork
from .tap.reach import Reach, common_reach
from .vm import DiskLimit, Place, Template, Vm, VmDriver, VmSpec

CONNECT_TIMEOUT_S = 10.0
WELCOME_TIMEOUT_S = 10.0
BOOT_TIMEOUT_S = 60.0
"""Instead, for each of the two, where the machine is booted for its sandbox."""
MONITOR_MIB = 256
"""What the monitor itself may need beside the guest's memory."""
MONITOR_THREADS = 64
_UNLIMITED = SandboxSpec()
_HELD_INSIDE = ("mem_mb", "pids", "disk_mb", "disk_files")
"""The limits that the guest's own kernel holds, told in the WELCOME."""
_BEHIND_RULES = "no network device, or one that nftables hold to the policy's cidrs"
_NO_NETWORK = "set network.enabled to false, or mend what the reason names"


class MicrovmSandbox(Sandbox):
    """One running machine."""

    def __init__(
        self, name: str, vm: Vm, channel: Channel, enforced: frozenset[Control], group: Group
    ) -> None:
        self.id = name
        self.vm = vm
        self.channel = channel
        self.enforced = enforced
        self.releases = AsyncExitStack()
        self._group = group

    def oom_kills(self) -> int:
        """Of the monitor; processes inside are the guest's to count, and it says so itself."""
        return self._group.oom_kills()

    def cpu_us(self) -> int | None:
        """Of the monitor, and so of the guest's kernel too."""
        return self._group.cpu_us()

    async def stop(self) -> None:
        await self.releases.aclose()

    async def _freeze(self) -> None:
        await self.vm.pause()

    async def _thaw(self) -> None:
        """Its clock stood still with its processors, and is set before anything is answered."""
        await self.vm.resume()
        await self.channel.greet_again(WELCOME_TIMEOUT_S)


class MicrovmRuntime(Runtime):
    """Clones a machine for each sandbox; boots and seals the template when it is missing."""

    name = "microvm"
    isolation = Isolation.VM

    def __init__(
        self,
        ownership: Ownership,
        directory: Path,
        config: MicrovmConfig | None = None,
        protected: tuple[Path, ...] = (),
    ) -> None:
        """`directory`: ours alone, where templates are kept between runs; `protected`:
        directories of the daemon's that no sandbox may be given."""
        self.pool_size = None if config is None else config.pool.size
        self._ownership = ownership
        self._protected = (ownership.directory, *protected)
        self._cgroups = Cgroups(ownership)
        self._identities = Identities()
        self._plan = MachinePlan(ownership, directory, config)
        self._network = TapNetwork(ownership, self._plan.config.network)
        self.network_devices = self._plan.config.network.enabled
        self._templates: dict[VmSpec, Template] = {}
        self._making = asyncio.Lock()
        self._count = 0
        self._driver: VmDriver | None = None
        self._probe: Probe | None = None

    async def probe(self) -> Probe:
        if self._probe is None:
            async with self._place(None) as (place, _):
                found, driver = await probe_microvm(
                    self._plan, self._cgroups.controls, place, self._ownership.directory
                )
            try:
                await self._network.prepare()
            except SandboxError as error:
                found, driver = Probe(False, found.version, error.message, _NO_NETWORK), None
            if driver is not None:
                if self._plan.config.network.enabled:
                    network = ControlStatus(True, _BEHIND_RULES)
                    found = replace(found, controls={**found.controls, Control.NETWORK: network})
                found = await self._put_to_the_proof(driver, found)
            self._probe, self._driver = found, driver
        return self._probe

    async def _put_to_the_proof(self, driver: VmDriver, found: Probe) -> Probe:
        facts = fingerprint(driver, self._plan.config, self._plan.machine(SandboxSpec()))
        controls = await proven(
            self.name,
            f"{facts} {driver.acceleration}",
            found.controls,
            lambda spec: self._start(driver, spec),
            self._ownership.directory,
        )
        return replace(found, controls=controls)

    def has_image(self, name: str) -> bool:
        config = self._plan.config
        if config.kernel_image is not None and config.rootfs is not None:
            return False  # the operator's own files, which have no name
        image = self._plan.image()
        return name in (CURRENT, image.source, image.digest)

    async def start(self, spec: SandboxSpec) -> MicrovmSandbox:
        probe = await self.probe()
        driver = self._driver
        if driver is None:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{probe.reason}; to mend it: {probe.mend}")
        self._refuse_unenforceable(spec, probe)
        sandbox = await self._start(driver, spec)
        sandbox.enforced &= probe.enforced
        return sandbox

    async def _start(self, driver: VmDriver, spec: SandboxSpec) -> MicrovmSandbox:
        machine = self._plan.machine(spec)
        reach = common_reach(self._plan.config.network, spec.network, spec.bandwidth_kb_s)
        try:
            async with AsyncExitStack() as undo:
                shares = serve_directories(spec, (self._plan.directory, *self._protected))
                undo.push_async_callback(shares.close)
                place, group = await undo.enter_async_context(self._place(machine, spec))
                if reach is None and self._plan.clones:
                    template = await self._template(driver, machine)
                    vm = await driver.clone(template, place)
                    connect_s, welcome_s = CONNECT_TIMEOUT_S, WELCOME_TIMEOUT_S
                else:
                    own = self._plan.machine(spec, place.id)
                    own, place = await self._join(undo, reach, driver, own, place)
                    vm = await driver.boot(own, place)
                    connect_s = welcome_s = BOOT_TIMEOUT_S
                undo.push_async_callback(vm.stop)
                channel = await open_channel(await vm.connect(connect_s))
                undo.push_async_callback(channel.aclose)
                shares.serve(channel)
                controls = await self._greet(channel, vm, spec, place.id, welcome_s, shares.mounts)
                sandbox = MicrovmSandbox(place.id, vm, channel, controls, group)
                sandbox.releases = undo.pop_all()
                return sandbox
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the machine could not be started: {error}"
            ) from error

    async def close(self) -> None:
        if self._driver is not None:
            await self._driver.close()
        self._plan.templates.close()
        self._ownership.close()

    async def _join(
        self,
        undo: AsyncExitStack,
        reach: Reach | None,
        driver: VmDriver,
        machine: VmSpec,
        place: Place,
    ) -> tuple[VmSpec, Place]:
        """The machine and its place, with a network device where it is to have one."""
        if reach is None:
            return machine, place
        # A jailed Firecracker can be handed no descriptor.
        by_name = driver.name == "firecracker"
        link = await undo.enter_async_context(self._network.link(reach, place.user, by_name))
        # After the operator's own words, so that these are the ones that count.
        words = f"{machine.boot_args} {link.kernel_words}".strip()
        return replace(machine, boot_args=words), replace(place, tap=link.tap)

    async def _greet(
        self,
        channel: Channel,
        vm: Vm,
        spec: SandboxSpec,
        name: str,
        timeout_s: float,
        mounts: list[tuple[str, str]],
    ) -> frozenset[Control]:
        hello = None if vm.hello is None else Hello.parse(vm.hello)
        limits = {name: getattr(spec, name) for name in _HELD_INSIDE}
        try:
            hello = await channel.welcome(
                dict(spec.extensions),
                name[-16:],
                timeout_s,
                limits={key: value for key, value in limits.items() if value is not None},
                hello=hello,
                mounts=mounts,
            )
        except SandboxError as error:
            said = vm.console_tail() or "nothing on its console"
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the machine did not come up: {error.message}; it said: {said[-500:]}",
            ) from error
        return _enforced(spec, hello)

    async def _template(self, driver: VmDriver, machine: VmSpec) -> Template:
        """The template of this machine: kept, on disk, or made now (seconds, once)."""
        async with self._making:
            known = self._templates.get(machine)
            if known is None:
                known = await self._open_or_make(driver, machine)
                self._templates[machine] = known
        return known

    async def _open_or_make(self, driver: VmDriver, machine: VmSpec) -> Template:
        directory = await asyncio.to_thread(self._plan.template_directory, driver, machine)
        if directory.exists():
            try:
                return await driver.open_template(machine, directory)
            except SandboxError:
                await asyncio.to_thread(self._plan.discard, directory)
        try:
            async with self._place(machine) as (place, _):
                made = await driver.make_template(machine, place, directory)
        except SandboxError:
            if directory.exists():  # another daemon was quicker
                return await driver.open_template(machine, directory)
            raise
        await asyncio.to_thread(self._plan.templates.remove_old)
        return made

    @asynccontextmanager
    async def _place(
        self, machine: VmSpec | None = None, spec: SandboxSpec = _UNLIMITED
    ) -> AsyncIterator[tuple[Place, Group]]:
        """A user, a control group and a directory for one machine; given back at the end."""
        self._count += 1
        number = self._count
        async with AsyncExitStack() as undo:
            user = self._identities.take()
            undo.callback(self._identities.give_back, user)
            name = self._ownership.name(f"vm{number}")
            group = self._group(name, number, machine, spec)
            undo.push_async_callback(group.remove)
            place = self._plan.place(name, user)
            place = replace(place, groups=group.entrances(undo), disk_limit=_disk_limit(spec))
            yield place, group

    def _group(self, name: str, number: int, machine: VmSpec | None, spec: SandboxSpec) -> Group:
        """The operator's own control group for this machine, or one with our limits."""
        config = self._plan.config.for_vm(name).cgroup
        if config is not None:
            return create_machine_group(config)
        memory = None if machine is None else machine.mem_mib + MONITOR_MIB
        limits = Limits(memory, spec.cpus, MONITOR_THREADS, count_cpu=True)
        return self._cgroups.create(f"vm{number}", limits)

    def _refuse_unenforceable(self, spec: SandboxSpec, probe: Probe) -> None:
        if spec.cpus is not None and not self._plan.holds_processors(spec.cpus):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"cpu: the config file's cgroup gives each machine more than {spec.cpus:g} "
                "processors; set cgroup.cpu_quota_us to less",
            )
        refuse_unenforceable(self.name, spec, probe)


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
        *(Control.NETWORK, Control.PROCESSES, Control.NOFILE),
    }
)
"""True of every machine: it has no device but its disk, its channel and its console."""
_HELD_OUTSIDE = frozenset({Control.CPU, Control.IO, Control.HOST_PATHS})
"""Limits that the host holds around the monitor, or in what it serves."""


def _enforced(spec: SandboxSpec, hello: Hello) -> frozenset[Control]:
    """What is in force: the wall, what the guest put up, and the limits that were asked."""
    own = frozenset(Control(name) for name in hello.controls if name in set(Control))
    unasked = {Control.MEMORY, Control.PIDS, Control.DISK, Control.DISK_FILES} - spec.limits
    return _ALWAYS | (_HELD_OUTSIDE & spec.limits) | (own - unasked)


def _disk_limit(spec: SandboxSpec) -> DiskLimit | None:
    if spec.io_mb_s is None and spec.iops is None:
        return None
    return DiskLimit(None if spec.io_mb_s is None else spec.io_mb_s << 20, spec.iops)
