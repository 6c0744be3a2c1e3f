"""QEMU's command line, as data: what machine it is, and which open files it is made of.

The machine is `q35`. Beside `microvm`, under emulation, it restores in 34 ms instead of
27, and the first answer comes no later (98 and 99 ms). But `microvm` has no clock to
measure the TSC by except the PIT, and on a busy host five boots of six hung there.
Every file reaches QEMU as a descriptor that
we opened, so it runs as a user who can open none of them, and nothing is left in the
file system when it dies. Source: qemu(1).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from mas_sandbox.wire import strict_json

from ..vm import DiskLimit, Tap, VmSpec

PORT_NAME = "mas.channel"
_MACHINE = (
    "q35,vmport=off,smm=off,usb=off,sata=off,smbus=off,"
    "memory-backend=memory,dump-guest-core=off,mem-merge=off"
)
_TRANSLATOR = "tcg,tb-size=64"
"""Translated code, in MiB: by default up to 1 GiB, which no memory limit would leave room for."""
_FILTER = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_BOOT_ARGS = "console=ttyS0 quiet panic=-1 reboot=t random.trust_cpu=on"
_EMULATED_CPU = "max,erms=off,la57=off"
"""A walk of the page tables has four steps without la57, not five."""
_EMULATED_ARGS = "tsc=reliable no_timer_check cryptomgr.notests nowatchdog clearcpuid=cx16,rep_good"
"""An emulated clock is checked against nothing better than itself, for half a second, and
ciphers against their test vectors for a third of one. A lockup is the host being busy.

A repeated string instruction is emulated a step at a time: without `erms` and `rep_good` the
kernel copies and clears the hundreds of pages of each call by plain moves instead.

QEMU 7.2 leaves nobody's flags after an emulated CMPXCHG16B: an interrupt right behind it saves
them, and the guest goes on with its trap flag set. Linux 6.12, which allocates with that
instruction, panicked every 10 s; so it is told that there is none. Programs still find it."""

_TSC = "tsc_early_khz"
"""In place of what the kernel would measure; a second later it measures again, and more finely,
but only believes what is within a hundredth of this."""


@dataclass(frozen=True, slots=True)
class Vsock:
    """A host vsock: an open /dev/vhost-vsock, and the guest's address on it."""

    descriptor: int
    cid: int


@dataclass(frozen=True, slots=True)
class Wiring:
    """The open files QEMU is started with.

    `memory` holds the guest's memory, and is written to where it is `shared`;
    `channel`: the other end of a virtio-serial port, or a vsock; `disks`: the root disk,
    then the spec's drives in their order; `kernel` is None for a machine that goes on
    from a saved state, which QEMU is then told of over `monitor`; `tsc_khz`: how fast the
    counter of an emulated one runs, where that is known.
    """

    monitor: int
    console: int
    memory: int
    shared: bool
    channel: int | Vsock
    disks: tuple[int, ...]
    kernel: int | None = None
    initrd: int | None = None
    tap: Tap | None = None
    disk_limit: DiskLimit | None = None
    tsc_khz: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them: what the child inherits."""
        channel = self.channel.descriptor if isinstance(self.channel, Vsock) else self.channel
        every = (self.monitor, self.console, self.memory, channel, *self.disks)
        network = None if self.tap is None else self.tap.descriptor
        return every + tuple(
            each for each in (self.kernel, self.initrd, network) if each is not None
        )


def command_line(binary: str, acceleration: str, spec: VmSpec, wiring: Wiring) -> list[str]:
    """The arguments that make this machine."""
    arguments = [
        *(binary, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-name", "mas-sandbox,debug-threads=on"),
        *("-machine", _MACHINE),
        *("-accel", _TRANSLATOR if acceleration == "tcg" else acceleration),
        *("-cpu", _EMULATED_CPU if acceleration == "tcg" else "host"),
        *("-smp", str(spec.vcpu_count)),
        *("-m", f"{spec.mem_mib}M"),
        *("-object", _memory(spec, wiring)),
        *("-chardev", f"socket,id=monitor,fd={wiring.monitor}"),
        *("-mon", "chardev=monitor,mode=control"),
        *("-chardev", f"socket,id=console,fd={wiring.console}"),
        *("-serial", "chardev:console"),
        *("-object", "rng-builtin,id=entropy", "-device", "virtio-rng-pci,rng=entropy"),
        *_channel(wiring.channel),
    ]
    for index, descriptor in enumerate(wiring.disks):
        arguments += _disk(index, descriptor, spec, wiring.disk_limit)
    if wiring.tap is not None:
        arguments += _network(wiring.tap)
    if sys.platform == "linux":
        arguments += ["-sandbox", _FILTER]
    if wiring.kernel is None:
        return [*arguments, "-S", "-incoming", "defer"]
    arguments += ["-kernel", path_of(wiring.kernel)]
    if wiring.initrd is not None:
        arguments += ["-initrd", path_of(wiring.initrd)]
    return [*arguments, "-append", boot_args(acceleration, spec, wiring)]


def machine_words(acceleration: str) -> list[str]:
    """What machines of every spec have in common; a template is of no use to others."""
    emulated = [_TRANSLATOR, _EMULATED_CPU, _EMULATED_ARGS, _TSC]
    return [_MACHINE, _BOOT_ARGS, *(emulated if acceleration == "tcg" else [])]


def boot_args(acceleration: str, spec: VmSpec, wiring: Wiring) -> str:
    """The kernel's command line; the spec's own words come last, and so win."""
    way = f"vsock:{spec.port}" if isinstance(wiring.channel, Vsock) else "serial"
    words = [
        _BOOT_ARGS,
        _EMULATED_ARGS if acceleration == "tcg" else "",
        f"{_TSC}={wiring.tsc_khz}" if wiring.tsc_khz else "",
        f"mas.channel={way} mas.overlay_mb={spec.overlay_mb}",
        spec.boot_args,
    ]
    return " ".join(filter(None, words))


def path_of(descriptor: int) -> str:
    """A path by which the process that inherits a descriptor can open it."""
    return f"/{'proc/self' if sys.platform == 'linux' else 'dev'}/fd/{descriptor}"


def _memory(spec: VmSpec, wiring: Wiring) -> str:
    share = "on" if wiring.shared else "off"
    return (
        f"memory-backend-file,id=memory,size={spec.mem_mib}M,share={share},"
        f"mem-path={path_of(wiring.memory)}"
    )


def _channel(channel: int | Vsock) -> list[str]:
    if isinstance(channel, Vsock):
        device = f"vhost-vsock-pci,guest-cid={channel.cid},vhostfd={channel.descriptor}"
        return ["-device", device]
    return [
        *("-device", "virtio-serial-pci,max_ports=2"),
        *("-chardev", f"socket,id=channel,fd={channel}"),
        *("-device", f"virtserialport,chardev=channel,nr=1,name={PORT_NAME}"),
    ]


def _disk(index: int, descriptor: int, spec: VmSpec, limit: DiskLimit | None) -> list[str]:
    """Disk `index`, as the guest's /dev/vda and on; 0 is the root disk."""
    drive = spec.drives[index - 1] if index else None
    read_only = drive is None or drive.read_only
    node = f"disk{index}"
    file = {
        "driver": "file",
        "node-name": f"file{index}",
        "filename": f"/dev/fdset/{index}",
        "read-only": read_only,
        "locking": "off",
    }
    arguments = ["-add-fd", f"fd={descriptor},set={index}", "-blockdev", _json(file)]
    if limit is None:
        node = f"file{index}"
    else:
        limits = {"bps-total": limit.bytes_per_s, "iops-total": limit.operations_per_s}
        bucket = {
            "qom-type": "throttle-group",
            "id": f"limit{index}",
            "limits": {name: value for name, value in limits.items() if value is not None},
        }
        throttled = {
            "driver": "throttle",
            "node-name": node,
            "throttle-group": f"limit{index}",
            "file": f"file{index}",
            "read-only": read_only,
        }
        arguments += ["-object", _json(bucket), "-blockdev", _json(throttled)]
    device = {"driver": "virtio-blk-pci", "drive": node}
    if drive is not None:
        device["serial"] = drive.id
    return [*arguments, "-device", _json(device)]


def _network(tap: Tap) -> list[str]:
    """A card on a device of the host's; by its name, one made for the user we run as."""
    device = {"driver": "virtio-net-pci", "netdev": "network", "romfile": ""}
    if tap.mac_address is not None:
        device["mac"] = tap.mac_address
    backend = f"tap,id=network,fd={tap.descriptor}"
    if tap.descriptor is None:
        backend = f"tap,id=network,ifname={tap.device},script=no,downscript=no"
    return ["-netdev", backend, "-device", _json(device)]


def _json(value: object) -> str:
    return strict_json.dumps(value).decode()
