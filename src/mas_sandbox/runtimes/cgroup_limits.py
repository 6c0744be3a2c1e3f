"""What control groups are told: limits, and the files and words of each version.

Sources: the kernel's admin-guide/cgroup-v2.rst, admin-guide/cgroup-v1/ and
admin-guide/cgroup-v1/blkio-controller.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.controls import Control

PERIOD_US = 100_000
"""The period over which processor time is shared out."""
CONTROLLERS = {
    "memory": Control.MEMORY,
    "cpu": Control.CPU,
    "pids": Control.PIDS,
    "io": Control.IO,
    "blkio": Control.IO,
    "cpuacct": Control.CPU_TIME,
}
"""Those of both versions. Version 2 counts processor time without a controller."""


@dataclass(frozen=True, slots=True)
class IoLimit:
    """Of reads, and again of writes, on each of `devices`, which are written "major:minor"."""

    devices: tuple[str, ...]
    bytes_per_s: int | None = None
    operations_per_s: int | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """What a group holds; None is not limited. `cpus` may be fractional; `count_cpu`: the
    processor time that it has used is asked for."""

    mem_mb: int | None = None
    cpus: float | None = None
    pids: int | None = None
    io: IoLimit | None = None
    count_cpu: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """A file of the group's and what is written to it. What is not `required` may fail."""

    file: str
    value: str
    required: bool = True


def wanted(limits: Limits) -> frozenset[Control]:
    """The controls that these limits need a group for."""
    asked = {
        Control.MEMORY: limits.mem_mb,
        Control.CPU: limits.cpus,
        Control.PIDS: limits.pids,
        Control.IO: limits.io,
        Control.CPU_TIME: limits.count_cpu or None,
    }
    return frozenset(control for control, limit in asked.items() if limit is not None)


def settings(version: int, control: Control, limits: Limits) -> list[Setting]:
    """What is written for one of `wanted`."""
    two = version == 2
    match control:
        case Control.MEMORY if limits.mem_mb is not None:
            return _memory(two, str(limits.mem_mb << 20))
        case Control.CPU if limits.cpus is not None:
            quota = max(1000, int(limits.cpus * PERIOD_US))
            if two:
                return [Setting("cpu.max", f"{quota} {PERIOD_US}")]
            period = Setting("cpu.cfs_period_us", str(PERIOD_US))
            return [period, Setting("cpu.cfs_quota_us", str(quota))]
        case Control.PIDS if limits.pids is not None:
            return [Setting("pids.max", str(limits.pids))]
        case Control.IO if limits.io is not None:
            return _io(two, limits.io)
        case _:
            return []


def _memory(two: bool, size: str) -> list[Setting]:
    swapping = host_swaps()
    if two:
        return [Setting("memory.max", size), Setting("memory.swap.max", "0", swapping)]
    return [
        Setting("memory.limit_in_bytes", size),
        Setting("memory.memsw.limit_in_bytes", size, swapping),
        Setting("memory.swappiness", "0", False),
    ]


def host_swaps() -> bool:
    """Whether this host has swap, without which a kernel need not count any: proc(5)."""
    with suppress(OSError):
        descriptor = os.open("/proc/swaps", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, 4096).count(b"\n") > 1
        finally:
            os.close(descriptor)
    return True


def _io(two: bool, limit: IoLimit) -> list[Setting]:
    rates = {"bps": limit.bytes_per_s, "iops": limit.operations_per_s}
    asked = [(unit, rate) for unit, rate in rates.items() if rate is not None]
    if two:
        words = " ".join(f"{way}{unit}={rate}" for unit, rate in asked for way in "rw")
        return [Setting("io.max", f"{device} {words}") for device in limit.devices]
    return [
        Setting(f"blkio.throttle.{way}_{unit}_device", f"{device} {rate}")
        for device in limit.devices
        for unit, rate in asked
        for way in ("read", "write")
    ]


class NoDevice(OSError):
    """A file system that does not say which block device it is on."""


def block_devices(paths: Iterable[str]) -> tuple[str, ...]:
    """The whole disks behind these paths, "major:minor"; none for files held in memory.

    A limit on a partition is not one: requests queue at its disk. Raises NoDevice for a
    file system that spreads over devices or lies on others (btrfs, overlay, a network's).
    """
    found = dict.fromkeys(_disk(path) for path in paths)
    return tuple(device for device in found if device)


def _disk(path: str) -> str:
    number = Path(path).stat().st_dev
    name = f"{os.major(number)}:{os.minor(number)}"
    place = Path("/sys/dev/block") / name
    if place.exists():
        whole = place.resolve().parent if (place / "partition").exists() else place
        return (whole / "dev").read_text().strip()
    kind = _kind(name)
    if kind in ("tmpfs", "ramfs"):
        return ""
    raise NoDevice(f"the file system of {path} ({kind or 'unknown'}) names no block device")


def _kind(device: str) -> str:
    """The type of the file system with this device number: proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split(" ")[2] == device:
            return system.split(" ")[0]
    return ""
