"""What Firecracker is told, as data: the requests of a boot and of a load, in order.

Paths are relative to the monitor's root: its chroot under the jailer, else its working
directory. A snapshot holds these names, and every clone finds its own files by them.
Sources: Firecracker's API description; docs/snapshotting/snapshot-support.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..vm import DiskLimit, Place, VmSpec
from .api import Json

KERNEL, INITRD, ROOTFS = "vmlinux", "initrd", "rootfs"
STATE, MEMORY = "vmstate", "memory"
LOADED = "loaded-"
"""Before the names of the files that a clone was made from, which it must never write to."""
API_SOCKET, VSOCK, LOG, METRICS = "api.sock", "v.sock", "log", "metrics"
REFILL_MS = 1000

# No PCI bus, no i8042 probing, no answer awaited from devices that are not there; a
# kernel that panics ends the monitor (`reboot=k`) instead of hanging.
BOOT_ARGS = (
    "console=ttyS0 quiet reboot=k panic=-1 pci=off "
    "i8042.noaux i8042.nomux i8042.nopnp i8042.dumbkbd swiotlb=noforce"
)


class Request(NamedTuple):
    """One call of the API."""

    method: str
    target: str
    body: Json


def drive_name(identifier: str) -> str:
    """What a drive's file is called in the monitor's root."""
    return f"drive-{identifier}"


def observing(metrics: bool) -> Iterator[Request]:
    """What may come before everything else, a snapshot included."""
    yield Request("PUT", "/logger", {"log_path": LOG, "level": "Warning", "show_level": True})
    if metrics:
        yield Request("PUT", "/metrics", {"metrics_path": METRICS})


def booting(spec: VmSpec, place: Place) -> Iterator[Request]:
    """From a fresh monitor to a running guest."""
    yield from observing(place.metrics_path is not None)
    machine = {"vcpu_count": spec.vcpu_count, "mem_size_mib": spec.mem_mib, "smt": False}
    yield Request("PUT", "/machine-config", machine)
    yield Request("PUT", "/boot-source", _boot_source(spec))
    yield _drive("rootfs", ROOTFS, True, True, place.disk_limit)
    for drive in spec.drives:
        name = drive_name(drive.id)
        yield _drive(drive.id, name, False, drive.read_only, place.disk_limit)
    if place.tap is not None:
        card = {"iface_id": "eth0", "host_dev_name": place.tap.device}
        if place.tap.mac_address is not None:
            card["guest_mac"] = place.tap.mac_address
        yield Request("PUT", "/network-interfaces/eth0", card)
    yield Request("PUT", "/vsock", {"guest_cid": place.cid, "uds_path": VSOCK})
    yield Request("PUT", "/entropy", {})
    # Empty until someone asks for memory back; a guest in need takes its own again.
    yield Request("PUT", "/balloon", {"amount_mib": 0, "deflate_on_oom": True})
    yield Request("PUT", "/actions", {"action_type": "InstanceStart"})


def loading(spec: VmSpec, place: Place) -> Iterator[Request]:
    """From a fresh monitor to a guest that goes on where its snapshot was made, and whose
    drives have this place's limits: it is no sandbox yet before its WELCOME."""
    yield from observing(place.metrics_path is not None)
    yield Request(
        "PUT",
        "/snapshot/load",
        {
            "snapshot_path": LOADED + STATE,
            "mem_backend": {"backend_type": "File", "backend_path": LOADED + MEMORY},
            "resume_vm": True,
        },
    )
    buckets = _buckets(place.disk_limit)
    if buckets:
        for name in ("rootfs", *(drive.id for drive in spec.drives)):
            limited = {"drive_id": name, "rate_limiter": buckets}
            yield Request("PATCH", f"/drives/{name}", limited)


def _boot_source(spec: VmSpec) -> Json:
    own = f"{BOOT_ARGS} mas.channel=vsock:{spec.port} mas.overlay_mb={spec.overlay_mb}"
    source = {"kernel_image_path": KERNEL, "boot_args": f"{own} {spec.boot_args}".strip()}
    if spec.initrd is not None:
        source["initrd_path"] = INITRD
    return source


def _drive(
    identifier: str, path: str, root: bool, read_only: bool, limit: DiskLimit | None
) -> Request:
    body: dict[str, object] = {
        "drive_id": identifier,
        "path_on_host": path,
        "is_root_device": root,
        "is_read_only": read_only,
    }
    buckets = _buckets(limit)
    if buckets:
        body["rate_limiter"] = buckets
    return Request("PUT", f"/drives/{identifier}", body)


def _buckets(limit: DiskLimit | None) -> dict[str, Json]:
    """Token buckets that hold what one second may use, filled again every second."""
    if limit is None:
        return {}
    rates = {"bandwidth": limit.bytes_per_s, "ops": limit.operations_per_s}
    return {
        name: {"size": rate, "refill_time": REFILL_MS}
        for name, rate in rates.items()
        if rate is not None
    }
