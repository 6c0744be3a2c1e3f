"""What a config file, an image and a policy's limits make of a machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.microvm.config import (
    CgroupConfig,
    DriveConfig,
    MachineConfig,
    MicrovmConfig,
    ToolRunnerConfig,
)
from mas_sandbox.runtimes.microvm.machine import GUEST_MIB, MachinePlan
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import SandboxError

FILES = MicrovmConfig(kernel_image="/boot/vmlinux", initrd="/boot/initrd", rootfs="/boot/root.ext4")


@pytest.fixture
def ownership(tmp_path: Path) -> Iterator[Ownership]:
    owner = Ownership(tmp_path / "locks")
    yield owner
    owner.close()


def plan(ownership: Ownership, tmp_path: Path, config: MicrovmConfig | None) -> MachinePlan:
    return MachinePlan(ownership, tmp_path / "microvm", config)


def test_the_config_files_own_kernel_disk_and_size_are_taken(
    ownership: Ownership, tmp_path: Path
) -> None:
    config = replace(
        FILES,
        machine=MachineConfig(vcpu_count=2, mem_mib=300),
        boot_args="loglevel=3",
        tool_runner=ToolRunnerConfig("/bin/runner", ("-v",)),
    )
    machine = plan(ownership, tmp_path, config).machine(SandboxSpec(mem_mb=2048))
    assert (machine.kernel, machine.rootfs) == (Path("/boot/vmlinux"), Path("/boot/root.ext4"))
    assert (machine.vcpu_count, machine.mem_mib) == (2, 300)
    assert machine.boot_args == "loglevel=3 mas.command=/bin/runner mas.arg=-v"


def test_limits_share_a_handful_of_machines_and_each_fits(
    ownership: Ownership, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(ownership, tmp_path, None)
    monkeypatch.setattr(made, "config", FILES)
    sizes = {mem: made.machine(SandboxSpec(mem_mb=mem)).mem_mib for mem in range(16, 8193)}
    assert all(size >= mem + GUEST_MIB for mem, size in sizes.items())
    assert sizes[512] == 512 + GUEST_MIB
    assert len(set(sizes.values())) == 8


def test_writable_disks_are_each_machines_own_and_never_cloned(
    ownership: Ownership, tmp_path: Path
) -> None:
    shared = replace(FILES, drives=(DriveConfig("data", "/data.img"),))
    assert plan(ownership, tmp_path, shared).clones
    own = replace(FILES, drives=(DriveConfig("work", "/work-{id}.img", read_only=False),))
    made = plan(ownership, tmp_path, own)
    assert not made.clones
    assert made.machine(SandboxSpec(), "vm7").drives[0].path == Path("/work-vm7.img")


def test_the_operators_control_group_must_hold_what_a_policy_asks(
    ownership: Ownership, tmp_path: Path
) -> None:
    def holds(quota_us: int | None) -> bool:
        config = replace(FILES, cgroup=CgroupConfig("mas/{id}", cpu_quota_us=quota_us))
        return plan(ownership, tmp_path, config).holds_processors(1.0)

    assert holds(100_000)
    assert holds(50_000)
    assert not holds(100_001)
    assert not holds(None)
    assert plan(ownership, tmp_path, FILES).holds_processors(0.1)


def test_places_of_dead_daemons_are_cleared_and_those_of_live_ones_kept(
    ownership: Ownership, tmp_path: Path
) -> None:
    dead, live = Ownership(tmp_path / "locks"), Ownership(tmp_path / "locks")
    running = tmp_path / "microvm" / "running"
    left = [running / owner.name("vm1") for owner in (dead, live, ownership)]
    for path in left:
        path.mkdir(parents=True)
    dead.close()
    plan(ownership, tmp_path, FILES).prepare()
    assert [path.exists() for path in left] == [False, True, True]
    live.close()


def test_a_snapshot_of_the_operators_is_used_and_never_discarded(
    ownership: Ownership, tmp_path: Path
) -> None:
    made = plan(ownership, tmp_path, replace(FILES, snapshot=str(tmp_path)))
    driver = QemuDriver(MicrovmConfig(), tmp_path)
    assert made.template_directory(driver, made.machine(SandboxSpec())) == tmp_path
    with pytest.raises(SandboxError, match="make it again"):
        made.discard(tmp_path)
    assert tmp_path.exists()
