"""Starting QEMU: what it is given open, as whom it runs, and what is undone at the end."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import subprocess
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ...process import ChildProcess
from ..output import LogFile, Output
from ..seal import anonymous
from ..vm import Place, VmSpec
from .command import Vsock, Wiring, command_line
from .machine import QemuVm, Save
from .qmp import Qmp

KVM = Path("/dev/kvm")
VHOST = Path("/dev/vhost-vsock")
_GROUP = stat.S_IRGRP | stat.S_IWGRP
_OTHERS = stat.S_IROTH | stat.S_IWOTH
ANY_CID = 3
"""The guest address that a config file has where it names none: any will do. On this
host's vsock each machine needs one of its own."""


@dataclass(frozen=True, slots=True)
class Qemu:
    """Which QEMU, how fast, and how its channel is made."""

    binary: str
    acceleration: str
    vsock: bool


async def launch(
    qemu: Qemu, spec: VmSpec, place: Place, memory: int | None, cold: bool, save: Save
) -> QemuVm:
    """Start a machine: from its kernel where `cold`, else waiting to be told its state.

    `memory`: an open file that holds the template's memory; None for new memory.
    Raises SandboxError `sandbox_crash` naming the file or the step.
    """
    try:
        async with AsyncExitStack() as undo:
            return await _launch(qemu, spec, place, memory, cold, save, undo)
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"QEMU could not be started: {error}"
        ) from error


async def _launch(
    qemu: Qemu,
    spec: VmSpec,
    place: Place,
    memory: int | None,
    cold: bool,
    save: Save,
    undo: AsyncExitStack,
) -> QemuVm:
    held = memory
    if held is None:
        held = _new_memory(spec)
        undo.callback(os.close, held)
    with ExitStack() as inherited:
        monitor, ours = _pair(inherited, undo)
        console, reader = _pair(inherited, undo)
        channel, wire = _channel(qemu, place, inherited, undo)
        wiring = Wiring(
            monitor=monitor,
            console=console,
            memory=held,
            shared=memory is None,
            channel=wire,
            disks=_disks(spec, inherited),
            kernel=_boot_file(spec.kernel, place, inherited) if cold else None,
            initrd=_boot_file(spec.initrd, place, inherited) if cold else None,
            tap=place.tap,
            disk_limit=place.disk_limit,
            tsc_khz=await _tsc_khz() if cold and qemu.acceleration == "tcg" else None,
        )
        process = ChildProcess(
            command_line(qemu.binary, qemu.acceleration, spec, wiring),
            pass_fds=wiring.descriptors,
            environment={},
            user=place.user,
            supplementary=_kvm_groups(qemu.acceleration, place.user),
            groups=place.groups,
            die_with_parent=True,
        )
    undo.push_async_callback(_reap, process)
    log = _log(place.log_path)
    output = Output(reader.detach(), log)
    undo.callback(output.close)
    qmp = await Qmp.over(ours)
    undo.callback(qmp.close)
    vm = QemuVm(
        place.id, spec, process, qmp, output, channel, held if memory is None else None, save
    )
    undo.push_async_callback(vm.end)
    vm.releases = undo.pop_all()
    return vm


async def _tsc_khz() -> int | None:
    from .tsc import tsc_khz  # what ctypes costs, only a boot needs

    return await tsc_khz()


def _new_memory(spec: VmSpec) -> int:
    memory = anonymous("memory")
    os.ftruncate(memory, spec.mem_mib << 20)
    return memory


def _pair(inherited: ExitStack, undo: AsyncExitStack) -> tuple[int, socket.socket]:
    """The child's end as a number, and ours."""
    ours, theirs = socket.socketpair()
    inherited.enter_context(theirs)
    undo.callback(ours.close)
    return theirs.fileno(), ours


def _channel(
    qemu: Qemu, place: Place, inherited: ExitStack, undo: AsyncExitStack
) -> tuple[socket.socket | int, int | Vsock]:
    """Our end of the channel, or the address to call; and what QEMU is given for it."""
    if not qemu.vsock:
        theirs, ours = _pair(inherited, undo)
        ours.setblocking(False)
        return ours, theirs
    cid = place.cid if place.cid != ANY_CID else 0x10000 + secrets.randbelow(0x7FFF0000)
    return cid, Vsock(_open(VHOST, os.O_RDWR, inherited), cid)


def _disks(spec: VmSpec, inherited: ExitStack) -> tuple[int, ...]:
    drives = [(spec.rootfs, True), *((drive.path, drive.read_only) for drive in spec.drives)]
    return tuple(
        _open(path, os.O_RDONLY if read_only else os.O_RDWR, inherited)
        for path, read_only in drives
    )


def _boot_file(path: Path | None, place: Place, inherited: ExitStack) -> int | None:
    """QEMU opens these by path, so a user we drop to must be allowed to."""
    if path is None:
        return None
    descriptor = _open(path, os.O_RDONLY, inherited)
    status = os.fstat(descriptor)
    if place.user is not None and not status.st_mode & stat.S_IROTH:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"{path} cannot be read by the user a machine runs as; run: chmod o+r {path}",
        )
    return descriptor


def _open(path: Path, flags: int, inherited: ExitStack) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"{path} cannot be opened: {error.strerror}; run `mas-sandbox image build`, or "
            "name another file in the config file",
        ) from error
    inherited.callback(os.close, descriptor)
    return descriptor


def _log(path: Path | None) -> LogFile | None:
    if path is None:
        return None
    try:
        return LogFile(path)
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"log_path {path} cannot be opened: {error.strerror}"
        ) from error


def _kvm_groups(acceleration: str, user: int | None) -> tuple[int, ...]:
    """The group that /dev/kvm is open to, which a user we drop to must have."""
    if acceleration != "kvm" or user is None:
        return ()
    status = KVM.stat()
    if status.st_mode & _OTHERS == _OTHERS:
        return ()
    if status.st_gid and status.st_mode & _GROUP == _GROUP:
        return (status.st_gid,)
    raise SandboxError(
        ErrorCode.SANDBOX_CRASH,
        f"{KVM} is closed to the users that machines run as; run: groupadd -f kvm; "
        f"chgrp kvm {KVM}; chmod 660 {KVM}",
    )


async def _reap(process: ChildProcess) -> None:
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
