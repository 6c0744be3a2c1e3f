"""What Firecracker is told, held against what its API takes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from doubles.firecracker_api import parse
from mas_sandbox.runtimes.microvm.firecracker import requests
from mas_sandbox.runtimes.microvm.vm import DiskLimit, Drive, Place, Tap, VmSpec

SPEC = VmSpec(
    kernel=Path("/images/vmlinux"),
    initrd=Path("/images/initrd.img"),
    rootfs=Path("/images/rootfs.ext4"),
    vcpu_count=2,
    mem_mib=512,
    overlay_mb=64,
    boot_args="loglevel=4",
    drives=(Drive("data", Path("/data.img")), Drive("own", Path("/own.img"), read_only=False)),
    port=6000,
)
PLACE = Place(
    id="vm-1",
    directory=Path("/run/vm-1"),
    cid=9,
    metrics_path=Path("/m"),
    tap=Tap("tap0", "02:00:00:00:00:01"),
    disk_limit=DiskLimit(bytes_per_s=1 << 20, operations_per_s=100),
)
PLAIN = Place(id="vm-1", directory=Path("/run/vm-1"))


def bodies(steps: object) -> dict[str, dict[str, object]]:
    return {step.target: dict(step.body) for step in steps}  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", [PLACE, PLAIN])
@pytest.mark.parametrize("spec", [SPEC, VmSpec(kernel=Path("/k"), initrd=None, rootfs=Path("/r"))])
def test_every_request_of_a_boot_and_of_a_load_keeps_to_the_api(spec: VmSpec, place: Place) -> None:
    steps = [*requests.booting(spec, place), *requests.loading(spec, place)]
    for step in steps:
        parse(step.method, step.target, json.dumps(step.body))  # raises Fault


def test_the_guest_is_started_last_and_the_logger_comes_first() -> None:
    targets = [step.target for step in requests.booting(SPEC, PLACE)]
    assert targets[:2] == ["/logger", "/metrics"]
    assert targets[-1] == "/actions"
    assert targets.index("/drives/rootfs") < targets.index("/drives/data")


def test_a_load_is_preceded_by_logger_and_metrics_alone() -> None:
    observed = replace(PLAIN, metrics_path=Path("/m"))
    assert [step.target for step in requests.loading(SPEC, observed)] == [
        *("/logger", "/metrics", "/snapshot/load")
    ]
    assert [step.target for step in requests.loading(SPEC, PLAIN)] == ["/logger", "/snapshot/load"]
    load = bodies(requests.loading(SPEC, PLAIN))["/snapshot/load"]
    assert load["resume_vm"] is True
    memory = requests.LOADED + requests.MEMORY
    assert load["mem_backend"] == {"backend_type": "File", "backend_path": memory}


def test_a_spec_arrives_whole() -> None:
    told = bodies(requests.booting(SPEC, PLACE))
    assert told["/machine-config"] == {"vcpu_count": 2, "mem_size_mib": 512, "smt": False}
    assert told["/vsock"] == {"guest_cid": 9, "uds_path": requests.VSOCK}
    assert told["/drives/own"]["is_read_only"] is False
    assert told["/drives/data"]["is_read_only"] is True
    assert told["/drives/rootfs"]["is_root_device"] is True
    assert told["/drives/rootfs"]["is_read_only"] is True
    assert told["/drives/rootfs"]["rate_limiter"] == {
        "bandwidth": {"size": 1 << 20, "refill_time": 1000},
        "ops": {"size": 100, "refill_time": 1000},
    }
    assert told["/network-interfaces/eth0"] == {
        "iface_id": "eth0",
        "host_dev_name": "tap0",
        "guest_mac": "02:00:00:00:00:01",
    }


def test_the_operator_s_boot_arguments_come_last() -> None:
    arguments = str(bodies(requests.booting(SPEC, PLACE))["/boot-source"]["boot_args"])
    assert arguments.endswith("mas.channel=vsock:6000 mas.overlay_mb=64 loglevel=4")


def test_no_path_of_the_host_reaches_a_snapshot() -> None:
    told = json.dumps(bodies(requests.booting(SPEC, PLACE)))
    assert "/images" not in told
    assert "/data.img" not in told
    assert "/run/vm-1" not in told


def test_what_is_not_limited_has_no_limiter() -> None:
    unlimited = replace(PLAIN, disk_limit=DiskLimit())
    assert "rate_limiter" not in bodies(requests.booting(SPEC, unlimited))["/drives/rootfs"]
    one = replace(PLAIN, disk_limit=DiskLimit(operations_per_s=5))
    limiter = bodies(requests.booting(SPEC, one))["/drives/rootfs"]["rate_limiter"]
    assert limiter == {"ops": {"size": 5, "refill_time": 1000}}


def test_a_clone_s_drives_are_limited_after_the_load() -> None:
    steps = list(requests.loading(SPEC, PLACE))
    patches = steps[[step.target for step in steps].index("/snapshot/load") + 1 :]
    assert [(step.method, step.target) for step in patches] == [
        ("PATCH", f"/drives/{name}") for name in ("rootfs", "data", "own")
    ]
    limiter = {
        "bandwidth": {"size": 1 << 20, "refill_time": 1000},
        "ops": {"size": 100, "refill_time": 1000},
    }
    assert all(step.body["rate_limiter"] == limiter for step in patches)
