"""Control groups: v1 for real where this host has it, v2 by the files it would be told."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mas_sandbox.runtimes.cgroup import Cgroups, Hierarchy, Limits, find_hierarchies
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

ALL = frozenset({Control.MEMORY, Control.CPU, Control.PIDS})


@pytest.fixture
def ownership(tmp_path: Path) -> Iterator[Ownership]:
    owner = Ownership(tmp_path / "locks")
    yield owner
    owner.close()


def test_v2_limits_are_written_in_its_units(tmp_path: Path, ownership: Ownership) -> None:
    groups = Cgroups(ownership, [Hierarchy(2, tmp_path, ALL)])
    group = groups.create("1", Limits(mem_mb=64, cpus=0.5, pids=10))
    (directory,) = group.directories
    written = {path.name: path.read_text() for path in directory.iterdir()}
    assert written == {
        "memory.max": str(64 << 20),
        "memory.swap.max": "0",
        "cpu.max": "50000 100000",
        "pids.max": "10",
    }


def test_v2_kills_are_read_from_memory_events(tmp_path: Path, ownership: Ownership) -> None:
    group = Cgroups(ownership, [Hierarchy(2, tmp_path, ALL)]).create("1", Limits(mem_mb=64))
    (group.directories[0] / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.oom_kills() == 2


def test_v2_counts_processor_time_without_a_controller(
    tmp_path: Path, ownership: Ownership
) -> None:
    groups = Cgroups(ownership, [Hierarchy(2, tmp_path, frozenset({Control.CPU_TIME}))])
    group = groups.create("1", Limits(count_cpu=True))
    (directory,) = group.directories
    (directory / "cpu.stat").write_text("usage_usec 1234\nuser_usec 1000\n")
    assert group.cpu_us() == 1234
    assert groups.create("2", Limits(mem_mb=64)).cpu_us() is None


def test_a_limit_that_cannot_be_set_is_refused_and_leaves_nothing(ownership: Ownership) -> None:
    pids = next(each for each in find_hierarchies() if Control.PIDS in each.controls)
    without_cpu = Hierarchy(1, pids.parent, frozenset({Control.CPU}))
    groups = Cgroups(ownership, [pids, without_cpu] if pids.version == 2 else [without_cpu])
    with pytest.raises(SandboxError) as refused:
        groups.create("1", Limits(cpus=1.0))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    assert not (pids.parent / ownership.name("1")).exists()


def test_no_group_is_made_where_nothing_is_limited(tmp_path: Path, ownership: Ownership) -> None:
    assert Cgroups(ownership, [Hierarchy(2, tmp_path, ALL)]).create("1", Limits()).directories == []


async def test_a_process_in_a_real_group_is_limited(ownership: Ownership) -> None:
    groups = Cgroups(ownership)
    assert groups.controls.keys() >= ALL, "this host has no usable control groups"
    group = groups.create("1", Limits(mem_mb=64, cpus=0.5, pids=5, count_cpu=True))
    hold = ["sh", "-c", "read line; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.2 & done; wait"]
    with ExitStack() as undo:
        entrances = group.entrances(undo)
        process = subprocess.Popen(
            hold,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: [os.write(each, b"0") for each in entrances] and None,
        )
    _, complaint = process.communicate(b"\n")
    assert b"ork" in complaint  # "Cannot fork"
    assert (group.cpu_us() or 0) > 0
    await group.remove()
    assert not any(directory.exists() for directory in group.directories)


async def test_groups_of_a_dead_daemon_are_removed_and_those_of_a_live_one_kept(
    ownership: Ownership, tmp_path: Path
) -> None:
    live, dead = Ownership(tmp_path / "locks"), Ownership(tmp_path / "locks")
    elsewhere = Ownership(tmp_path / "other-locks")
    limits = Limits(mem_mb=64, cpus=1.0, pids=5)
    live_group = Cgroups(live).create("7", limits)
    dead_group = Cgroups(dead).create("7", limits)
    with ExitStack() as undo:
        entrances = dead_group.entrances(undo)
        left = subprocess.Popen(
            ["sleep", "60"],
            preexec_fn=lambda: [os.write(each, b"0") for each in entrances] and None,
        )
    dead.close()
    Cgroups(elsewhere)
    assert all(path.exists() for path in dead_group.directories)
    killed = asyncio.create_task(asyncio.to_thread(left.wait))
    await asyncio.to_thread(Cgroups, ownership)
    assert await killed == -9
    assert not [path for path in dead_group.directories if path.exists()]
    assert all(path.exists() for path in live_group.directories)
    await live_group.remove()
    live.close()
    elsewhere.close()
