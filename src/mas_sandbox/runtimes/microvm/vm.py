"""The contract of a virtual machine monitor: what every VM of ours is, and can do.

A `VmSpec` says what a machine is made of; machines with equal specs are
interchangeable, so it is what a template is keyed by. A `Place` says where one machine
lives and as whom. A driver boots a machine cold, or clones it from a template: a
machine that was stopped when its toolrunner had said HELLO.
"""

from __future__ import annotations

import abc
import asyncio
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self


@dataclass(frozen=True, slots=True)
class DiskLimit:
    """The throughput of each drive, as a token bucket. None is not limited."""

    bytes_per_s: int | None = None
    operations_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Drive:
    """One more disk. `id`: its serial number in the guest."""

    id: str
    path: Path
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class VmSpec:
    """What a machine is made of.

    `boot_args` are added after the driver's own (which hold `mas.channel` and
    `mas.overlay_mb`); `port`: where the toolrunner listens where the channel is a vsock.
    """

    kernel: Path
    initrd: Path | None
    rootfs: Path
    vcpu_count: int = 1
    mem_mib: int = 256
    overlay_mb: int = 256
    boot_args: str = ""
    drives: tuple[Drive, ...] = ()
    port: int = 5000


@dataclass(frozen=True, slots=True)
class Tap:
    """A network device of the host that a machine is joined to.

    `descriptor`: its other end, open; None where the monitor opens it by its name.
    """

    device: str
    mac_address: str | None = None
    descriptor: int | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where one machine lives, and as whom; no two machines share one.

    `directory` does not exist yet: a driver that needs one makes it (mode 0700) and
    `Vm.stop` removes it with all in it. `user`: uid and gid to drop to, None to stay.
    `groups`: open entrances of control groups (`cgroup.Group.entrances`), joined before
    the monitor runs and not needed after the call; the group is the caller's to remove
    when `Vm.stop` has returned. A path of None is the driver's own choice below
    `directory`, and removed with it; files at other paths stay, sockets do not.
    A machine with a `tap` is booted, never cloned. `disk_limit`: of each of its drives.
    """

    id: str
    directory: Path
    user: int | None = None
    groups: tuple[int, ...] = ()
    cid: int = 3
    vsock_path: Path | None = None
    api_socket: Path | None = None
    log_path: Path | None = None
    metrics_path: Path | None = None
    tap: Tap | None = None
    disk_limit: DiskLimit | None = None


@dataclass(frozen=True, slots=True)
class VmProbe:
    """What a driver found out by booting a guest.

    `acceleration`: "kvm", "hvf" or "tcg", what booted; `reason` and `mend` are empty
    where it is available. `tried`: acceleration -> why it did not boot.
    """

    available: bool
    version: str = ""
    acceleration: str = ""
    reason: str = ""
    mend: str = ""
    tried: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A stopped machine on disk, sealed (see `seal`): what clones are made of.

    `hello`: the payload of the HELLO frame its toolrunner sent; `created_at`: seconds
    since the epoch; `key`: what it depends on, and so its name (see `seal.template_key`).
    """

    directory: Path
    driver: str
    spec: VmSpec
    hello: bytes
    created_at: float
    key: str


class Vm(abc.ABC):
    """A started machine. Leaving its context leaves nothing of it behind.

    Every method raises SandboxError `sandbox_crash`, naming the step, when the monitor
    refuses, is gone, or does not answer by the step's deadline; it is then killed.
    """

    id: str
    pid: int
    """The monitor's process on the host."""
    hello: bytes | None
    """The HELLO of its template, said before it was cloned; None where it still comes."""
    ended: asyncio.Future[int]
    """The monitor's exit status, negative for a signal, once it has been reaped."""

    @abc.abstractmethod
    async def connect(self, timeout_s: float) -> socket.socket:
        """A connected, non-blocking stream that speaks frames with the toolrunner.

        The socket is the caller's from then on. Over vsock it may be called again.
        Raises SandboxError `sandbox_crash` when nobody listens by then.
        """

    @abc.abstractmethod
    async def pause(self) -> None:
        """Stop every vCPU. A machine that is paused stays paused."""

    @abc.abstractmethod
    async def resume(self) -> None:
        """Let the vCPUs run again. A machine that runs keeps running."""

    @abc.abstractmethod
    async def snapshot(self, directory: Path) -> Template:
        """Write a paused machine to `directory`, which does not exist yet, and seal it."""

    @abc.abstractmethod
    async def stop(self) -> None:
        """End the monitor and remove its sockets and directory. Safe to call twice;
        never raises for a machine that is already dead."""

    @abc.abstractmethod
    def console_tail(self) -> str:
        """The last of what the guest's kernel and the monitor said, for an error message."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()


class VmDriver(abc.ABC):
    """Starts machines with one monitor program."""

    name: str
    """`qemu` or `firecracker`."""
    acceleration: str
    """`kvm`, `hvf` or `tcg`: what machines are started with. Set by `probe`, or by a
    caller that kept a probe's result."""

    @abc.abstractmethod
    async def probe(self, spec: VmSpec, place: Place) -> VmProbe:
        """Boot a guest with each acceleration that may work, until one has said HELLO.

        An openable /dev/kvm proves nothing. Never raises SandboxError: what went wrong
        is in the result. Leaves nothing behind. The caller keeps the result.
        """

    @abc.abstractmethod
    async def boot(self, spec: VmSpec, place: Place) -> Vm:
        """Start a machine from its kernel. It has been started, not yet come up.

        Raises SandboxError `sandbox_crash`, naming the file or the step.
        """

    @abc.abstractmethod
    def template_key(self, spec: VmSpec) -> str:
        """A name that changes with the kernel, initrd, rootfs, monitor, CPU or spec.

        Raises SandboxError `sandbox_crash` for a file that cannot be read. Reads whole
        files the first time: call it in a thread.
        """

    @abc.abstractmethod
    async def make_template(self, spec: VmSpec, place: Place, directory: Path) -> Template:
        """Boot a machine at `place`, stop it after its HELLO and seal it in `directory`.

        `directory` does not exist yet and appears complete or not at all. Nothing is
        left at `place`.
        """

    @abc.abstractmethod
    async def open_template(self, spec: VmSpec, directory: Path) -> Template:
        """The template of `spec` made earlier, with every byte of it verified.

        Raises SandboxError `sandbox_crash` when it is not there, altered, not ours, or
        of another spec, image, driver, version or CPU: remove it and make it again.
        """

    @abc.abstractmethod
    async def clone(self, template: Template, place: Place) -> Vm:
        """A machine that goes on where the template was stopped; it runs.

        Raises SandboxError `sandbox_crash` when the template was altered or is too
        new for this monitor.
        """

    async def close(self) -> None:
        """Release what the driver holds of opened templates."""
        return
