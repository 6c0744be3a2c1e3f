"""What control groups are told of block devices and swap, in the words of each version."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mas_sandbox.runtimes import cgroup_limits
from mas_sandbox.runtimes.base import Mount, SandboxSpec
from mas_sandbox.runtimes.cgroup import Cgroups, Hierarchy
from mas_sandbox.runtimes.cgroup_limits import (
    IoLimit,
    Limits,
    NoDevice,
    Setting,
    block_devices,
    settings,
    wanted,
)
from mas_sandbox.runtimes.limits_io import io_limit
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

BOTH = Limits(io=IoLimit(("8:0", "8:16"), bytes_per_s=1 << 20, operations_per_s=50))


def test_v2_limits_reads_and_writes_of_each_device_in_one_line() -> None:
    line = "rbps=1048576 wbps=1048576 riops=50 wiops=50"
    assert settings(2, Control.IO, BOTH) == [
        Setting("io.max", f"8:0 {line}"),
        Setting("io.max", f"8:16 {line}"),
    ]


def test_v1_has_a_file_for_each_direction_and_unit() -> None:
    told = settings(1, Control.IO, Limits(io=IoLimit(("8:0",), operations_per_s=50)))
    assert told == [
        Setting("blkio.throttle.read_iops_device", "8:0 50"),
        Setting("blkio.throttle.write_iops_device", "8:0 50"),
    ]


def test_what_is_not_asked_for_needs_no_group() -> None:
    assert wanted(Limits()) == frozenset()
    assert wanted(BOTH) == {Control.IO}
    assert wanted(Limits(count_cpu=True)) == {Control.CPU_TIME}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("swapping", [True, False])
def test_a_host_with_swap_must_be_able_to_keep_a_group_out_of_it(
    version: int, swapping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup_limits, "host_swaps", lambda: swapping)
    told = settings(version, Control.MEMORY, Limits(mem_mb=64))
    required = {setting.file: setting.required for setting in told}
    swap = "memory.swap.max" if version == 2 else "memory.memsw.limit_in_bytes"
    assert required[swap] is swapping


def test_a_file_of_a_disk_is_on_that_disk_as_a_whole(tmp_path: Path) -> None:
    """The oracle is the kernel's own tree of devices."""
    number = os.stat("/usr").st_dev
    place = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}")
    if not place.exists():
        with pytest.raises(NoDevice):
            block_devices(["/usr"])
        return
    (device,) = block_devices(["/usr", "/usr/bin"])
    whole = Path(f"/sys/dev/block/{device}")
    assert not (whole / "partition").exists()
    assert place.resolve().is_relative_to(whole.resolve())


def test_what_is_held_in_memory_is_on_no_disk() -> None:
    assert block_devices(["/dev/shm"]) == ()


def test_a_file_system_without_a_disk_is_named() -> None:
    with pytest.raises(NoDevice, match=r"/proc \(proc\) names no block device"):
        block_devices(["/proc"])


def _cgroups(tmp_path: Path, version: int, *controls: Control) -> Cgroups:
    place = tmp_path / "groups"
    place.mkdir()
    held = [Hierarchy(version, place, frozenset(controls))]
    return Cgroups(Ownership(tmp_path / "locks"), held)


def test_writes_to_a_host_directory_are_refused_a_limit_that_would_not_hold(
    tmp_path: Path,
) -> None:
    written = SandboxSpec(iops=50, mounts=(Mount("/data", "/dev/shm", writable=True),))
    with pytest.raises(SandboxError) as refused:
        io_limit(written, ["/usr"], _cgroups(tmp_path, 1, Control.IO))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    assert "unified_cgroup_hierarchy" in refused.value.message


def test_late_writes_are_held_by_version_2_beside_memory_only(tmp_path: Path) -> None:
    written = SandboxSpec(iops=50, mounts=(Mount("/data", "/dev/shm", writable=True),))
    held = io_limit(written, ["/dev/shm"], _cgroups(tmp_path, 2, Control.IO, Control.MEMORY))
    assert held == IoLimit((), operations_per_s=50)
    (tmp_path / "again").mkdir()
    with pytest.raises(SandboxError):
        io_limit(written, ["/dev/shm"], _cgroups(tmp_path / "again", 2, Control.IO))


def test_a_disk_that_cannot_be_found_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SandboxError) as refused:
        io_limit(SandboxSpec(io_mb_s=1), ["/proc"], _cgroups(tmp_path, 1, Control.IO))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
