"""The operator's control group: written in the units of the version that this host has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mas_sandbox.runtimes.cgroup import find_hierarchies
from mas_sandbox.runtimes.microvm import machine_group
from mas_sandbox.runtimes.microvm.config import CgroupConfig
from mas_sandbox.runtimes.microvm.machine_group import create_machine_group
from mas_sandbox.wire.errors import ErrorCode, SandboxError

FULL = CgroupConfig("mas/vm-1", 50_000, 100_000, 50, 1 << 30, 64)
Mounts = list[tuple[int, list[str], str, Path]]


@pytest.fixture
def hosted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host whose control groups are mounted in this directory."""

    def on(mounts: Mounts) -> None:
        monkeypatch.setattr(machine_group, "mounts", lambda: mounts)

    on([(2, ["memory", "cpu", "pids"], "/", tmp_path)])
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    return tmp_path


def written(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in directory.iterdir() if path.is_file()}


def test_version_2_is_told_in_its_own_words(hosted: Path) -> None:
    group = create_machine_group(FULL)
    assert group.directories == [hosted / "mas" / "vm-1"]
    assert written(hosted / "mas" / "vm-1") == {
        "cpu.max": "50000 100000",
        "cpu.weight": "50",
        "memory.max": str(1 << 30),
        "pids.max": "64",
    }
    assert (hosted / "mas" / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"


def test_version_1_has_a_directory_for_each_controller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts: Mounts = [(1, [name], "/", tmp_path / name) for name in ("cpu", "memory", "pids")]
    for *_, top in mounts:
        top.mkdir()
    monkeypatch.setattr(machine_group, "mounts", lambda: mounts)
    group = create_machine_group(FULL)
    assert len(group.directories) == 3
    assert written(tmp_path / "cpu/mas/vm-1") == {
        "cpu.cfs_period_us": "100000",
        "cpu.cfs_quota_us": "50000",
        "cpu.shares": "512",
    }
    assert written(tmp_path / "memory/mas/vm-1") == {"memory.limit_in_bytes": str(1 << 30)}
    assert written(tmp_path / "pids/mas/vm-1") == {"pids.max": "64"}


def test_a_path_from_the_top_of_the_tree_is_the_same_group(hosted: Path) -> None:
    group = create_machine_group(CgroupConfig(f"{hosted}/mas/vm-1"))
    assert group.directories == [hosted / "mas" / "vm-1"]


def test_what_cannot_be_limited_is_refused_and_nothing_is_left(hosted: Path) -> None:
    (hosted / "cgroup.controllers").write_text("cpu\n")
    with pytest.raises(SandboxError, match="no cpu, memory, pids controller") as caught:
        create_machine_group(FULL)
    assert caught.value.code is ErrorCode.POLICY_UNENFORCEABLE
    assert not (hosted / "mas").exists()


def test_a_group_that_is_there_already_is_refused(hosted: Path) -> None:
    (hosted / "mas/vm-1").mkdir(parents=True)
    with pytest.raises(SandboxError, match=r"cgroup\.path mas/vm-1: .*exists"):
        create_machine_group(FULL)


@pytest.mark.skipif(
    os.geteuid() != 0 or not find_hierarchies(), reason="no control group can be made here"
)
def test_a_real_group_holds_the_limits(tmp_path: Path) -> None:
    name = f"mas-sandbox-test-{os.getpid()}"
    group = create_machine_group(CgroupConfig(name, pids_max=10, memory_max_bytes=1 << 26))
    try:
        held = "".join(
            (directory / "pids.max").read_text()
            for directory in group.directories
            if (directory / "pids.max").exists()
        )
        assert held == "10\n"
    finally:
        for directory in group.directories:
            directory.rmdir()
