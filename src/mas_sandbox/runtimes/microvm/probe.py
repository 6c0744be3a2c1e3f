"""What the microVM can enforce on this host: found by booting a guest, once per host boot."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import SandboxError

from .. import kept
from ..base import THROUGH_THE_DAEMON, ControlStatus, Probe, SandboxSpec
from ..ownership import EMULATED
from ..shares.server import shares_status
from .config import MicrovmConfig, Vmm
from .facts import machine_facts
from .firecracker.driver import FirecrackerDriver
from .machine import MachinePlan
from .qemu.driver import DEFAULT_BINARY, QemuDriver
from .qemu.launch import KVM, VHOST
from .vm import Place, VmDriver, VmProbe, VmSpec

_DELEGATE = "systemd-run --user --scope -p Delegate=yes mas-sandboxd ... (or run it as root)"


async def probe_microvm(
    plan: MachinePlan, groups: Mapping[Control, str], place: Place, kept_in: Path
) -> tuple[Probe, VmDriver | None]:
    """The first driver whose guest said HELLO, and what it can enforce.

    What was found is kept in `kept_in`, a directory that a reboot clears.
    """
    refusals: list[str] = []
    mends: list[str] = []
    try:
        plan.prepare()
        machine = plan.machine(SandboxSpec())
    except SandboxError as error:
        return Probe(False, reason=error.message, mend="mas-sandbox image build"), None
    for driver in build_drivers(plan.config, plan.directory):
        path = kept_in / f"probe-{driver.name}-{fingerprint(driver, plan.config, machine)}.json"
        found = kept.read(path, _parse)
        if found is None:
            found = await driver.probe(machine, place)
            if found.available:
                kept.keep(path, asdict(found))
        if found.available:
            driver.acceleration = found.acceleration
            number = found.version.partition(" ")[0]
            version = f"{driver.name} {number}, {found.acceleration}"
            # An emulator keeps a guest in, but its makers do not promise that it does.
            hardware = found.acceleration != "tcg"
            if hardware:
                (kept_in / EMULATED).unlink(missing_ok=True)
            else:
                (kept_in / EMULATED).touch()
            facts = machine_facts(plan, found, driver.name)
            return Probe(True, version, "", "", claims(groups), hardware, facts=facts), driver
        refusals.append(f"{driver.name}: {found.reason}")
        mends.append(found.mend)
    facts = machine_facts(plan, None, "")
    mend = "; or ".join(filter(None, mends))
    return Probe(False, reason="; ".join(refusals), mend=mend, facts=facts), None


def build_drivers(config: MicrovmConfig, directory: Path) -> list[VmDriver]:
    """The drivers to try, the fastest first. `directory`: ours alone, for keys."""
    firecracker = FirecrackerDriver(config, directory)
    qemu = QemuDriver(config, directory)
    match config.vmm:
        case Vmm.AUTO:
            return [firecracker, qemu]
        case Vmm.FIRECRACKER:
            return [firecracker]
        case Vmm.QEMU:
            return [qemu]


def claims(groups: Mapping[Control, str]) -> dict[Control, ControlStatus]:
    """What a machine can hold, before it is put to the proof."""
    inside = "control group inside the guest, and the size of the machine"
    cpu, counted = groups.get(Control.CPU), groups.get(Control.CPU_TIME)
    return {
        Control.TIMEOUT: ControlStatus(True, "toolrunner, then the end of the machine"),
        Control.OUTPUT: ControlStatus(True, "toolrunner and daemon both count"),
        Control.ENV: ControlStatus(True, "the guest has an environment of its own"),
        Control.FILESYSTEM: ControlStatus(True, "a disk image of its own, read-only"),
        Control.NETWORK: ControlStatus(True, "no network device"),
        Control.EGRESS: ControlStatus(True, THROUGH_THE_DAEMON),
        Control.BANDWIDTH: ControlStatus(True, THROUGH_THE_DAEMON),
        Control.PROCESSES: ControlStatus(True, "a kernel of its own"),
        Control.SYSCALLS: ControlStatus(
            False, "none: the guest's own kernel answers them", "use -runtime jail"
        ),
        Control.PATHS: ControlStatus(True, "Landlock inside the guest"),
        Control.MEMORY: ControlStatus(True, inside),
        Control.PIDS: ControlStatus(True, "control group inside the guest"),
        Control.NOFILE: ControlStatus(True, "RLIMIT_NOFILE inside the guest"),
        Control.DISK: ControlStatus(True, "tmpfs with a size inside the guest"),
        Control.DISK_FILES: ControlStatus(True, "tmpfs with a number of inodes inside the guest"),
        Control.IO: ControlStatus(True, "the monitor's limit on each of its disks"),
        Control.HOST_PATHS: shares_status(),
        Control.CPU: ControlStatus(
            cpu is not None,
            f"{cpu or 'cgroup'} around the monitor",
            "" if cpu else _DELEGATE,
        ),
        Control.CPU_TIME: ControlStatus(
            counted is not None,
            f"{counted or 'cgroup'} around the monitor, and the toolrunner's sum over the tree",
            "" if counted else _DELEGATE,
        ),
    }


def fingerprint(driver: VmDriver, config: MicrovmConfig, machine: VmSpec) -> str:
    """A name that changes with the monitor, the user, what is booted or who may use KVM."""
    facts = [driver.name, str(os.geteuid()), repr(machine)]
    for device in (KVM, VHOST):
        with suppress(OSError):
            status = device.stat()
            facts.append(f"{device} {status.st_mode} {status.st_uid} {status.st_gid}")
    wanted = (config.firecracker_bin, config.qemu_bin or DEFAULT_BINARY)
    programs = [shutil.which(name) or name for name in wanted]
    for path in (*programs, *map(str, (machine.kernel, machine.initrd, machine.rootfs))):
        try:
            status = Path(path).stat()
        except OSError:
            facts.append(f"{path} is absent")
        else:
            facts.append(f"{path} {status.st_ino} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _parse(fields: dict[str, Any]) -> VmProbe:
    return VmProbe(**fields | {"tried": tuple(map(tuple, fields["tried"]))})
