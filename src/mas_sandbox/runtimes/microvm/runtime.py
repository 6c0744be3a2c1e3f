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

from ..base import Probe, Runtime, Sandbox, SandboxSpec
from ..cgroup import Cgroups, Group, Limits
from ..channel import Channel, open_channel
from ..identity import Identities
from ..ownership import Ownership
from .config import MicrovmConfig
from .machine import MachinePlan
from .machine_group import create_machine_group
from .probe import probe_microvm
from .vm import Place, Template, Vm, VmDriver, VmSpec

CONNECT_TIMEOUT_S = 10.0
WELCOME_TIMEOUT_S = 10.0
MONITOR_MIB = 256
"""What the monitor itself may need beside the guest's memory."""
MONITOR_THREADS = 64


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

    async def pause(self) -> None:
        """Stop the machine's processors. Raises SandboxError `sandbox_crash`."""
        await self.vm.pause()

    async def resume(self) -> None:
        """Let them run again."""
        await self.vm.resume()

    async def stop(self) -> None:
        await self.releases.aclose()


class MicrovmRuntime(Runtime):
    """Clones a machine for each sandbox; boots and seals the template when it is missing."""

    name = "microvm"
    isolation = Isolation.VM

    def __init__(
        self, ownership: Ownership, directory: Path, config: MicrovmConfig | None = None
    ) -> None:
        """`directory`: ours alone, where templates are kept between runs."""
        self.pool_size = None if config is None else config.pool.size
        self._ownership = ownership
        self._cgroups = Cgroups(ownership)
        self._identities = Identities()
        self._plan = MachinePlan(ownership, directory, config)
        self._templates: dict[VmSpec, Template] = {}
        self._making = asyncio.Lock()
        self._count = 0
        self._driver: VmDriver | None = None
        self._probe: Probe | None = None

    async def probe(self) -> Probe:
        if self._probe is None:
            async with self._place(None) as (place, _):
                self._probe, self._driver = await probe_microvm(
                    self._plan, self._cgroups.controls, place, self._ownership.directory
                )
        return self._probe

    async def start(self, spec: SandboxSpec) -> MicrovmSandbox:
        probe = await self.probe()
        driver = self._driver
        if driver is None:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{probe.reason}; to mend it: {probe.mend}")
        self._refuse_unenforceable(spec, probe)
        machine = self._plan.machine(spec)
        try:
            async with AsyncExitStack() as undo:
                place, group = await undo.enter_async_context(self._place(machine, spec.cpus))
                if self._plan.clones:
                    template = await self._template(driver, machine)
                    vm = await driver.clone(template, place)
                else:
                    vm = await driver.boot(self._plan.machine(spec, place.id), place)
                undo.push_async_callback(vm.stop)
                channel = await open_channel(await vm.connect(CONNECT_TIMEOUT_S))
                undo.callback(channel.close)
                controls = await self._greet(channel, vm, spec, place.id)
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
        self._ownership.close()

    async def _greet(
        self, channel: Channel, vm: Vm, spec: SandboxSpec, name: str
    ) -> frozenset[Control]:
        hello = None if vm.hello is None else Hello.parse(vm.hello)
        limits = {"mem_mb": spec.mem_mb, "pids": spec.pids, "disk_mb": spec.disk_mb}
        try:
            hello = await channel.welcome(
                dict(spec.extensions),
                name[-16:],
                WELCOME_TIMEOUT_S,
                limits={key: value for key, value in limits.items() if value is not None},
                hello=hello,
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
        key = await asyncio.to_thread(driver.template_key, machine)
        directory = self._plan.template_directory(key)
        if directory.exists():
            try:
                return await driver.open_template(machine, directory)
            except SandboxError:
                await asyncio.to_thread(self._plan.discard, directory)
        async with self._place(machine) as (place, _):
            return await driver.make_template(machine, place, directory)

    @asynccontextmanager
    async def _place(
        self, machine: VmSpec | None = None, cpus: float | None = None
    ) -> AsyncIterator[tuple[Place, Group]]:
        """A user, a control group and a directory for one machine; given back at the end."""
        self._count += 1
        number = self._count
        async with AsyncExitStack() as undo:
            user = self._identities.take()
            undo.callback(self._identities.give_back, user)
            name = self._ownership.name(f"vm{number}")
            group = self._group(name, number, machine, cpus)
            undo.push_async_callback(group.remove)
            place = self._plan.place(name, user)
            yield replace(place, groups=group.entrances(undo)), group

    def _group(self, name: str, number: int, machine: VmSpec | None, cpus: float | None) -> Group:
        """The operator's own control group for this machine, or one with our limits."""
        config = self._plan.config.for_vm(name).cgroup
        if config is not None:
            return create_machine_group(config)
        memory = None if machine is None else machine.mem_mib + MONITOR_MIB
        return self._cgroups.create(f"vm{number}", Limits(memory, cpus, MONITOR_THREADS))

    def _refuse_unenforceable(self, spec: SandboxSpec, probe: Probe) -> None:
        if spec.cpus is not None and not self._plan.holds_processors(spec.cpus):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"cpu: the config file's cgroup gives each machine more than {spec.cpus:g} "
                "processors; set cgroup.cpu_quota_us to less",
            )
        for control in sorted(spec.limits - probe.enforced):
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"the microvm runtime cannot enforce {control} here; "
                "run `mas-sandbox doctor` for what would mend it",
            )


_ALWAYS = frozenset(
    {
        *(Control.TIMEOUT, Control.OUTPUT, Control.ENV, Control.FILESYSTEM),
        *(Control.NETWORK, Control.PROCESSES),
    }
)
"""True of every machine: it has no device but its disk, its channel and its console."""


def _enforced(spec: SandboxSpec, hello: Hello) -> frozenset[Control]:
    """What is in force: the wall, what the guest put up, and the limits that were asked."""
    own = frozenset(Control(name) for name in hello.controls if name in set(Control))
    unasked = {Control.MEMORY, Control.PIDS, Control.DISK} - spec.limits
    return _ALWAYS | ({Control.CPU} & spec.limits) | (own - unasked)
