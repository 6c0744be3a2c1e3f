"""Stopping control groups, version 1 and 2, for real where this host has them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mas_sandbox.runtimes import freezer as module
from mas_sandbox.runtimes.cgroup import Cgroups, Group, Limits
from mas_sandbox.runtimes.cgroup_find import Hierarchy, find_freezer, find_hierarchies, mounts
from mas_sandbox.runtimes.freezer import Freezer
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

BUSY = "while :; do (:); done"


@pytest.fixture
def ownership(tmp_path: Path) -> Iterator[Ownership]:
    owner = Ownership(tmp_path / "locks")
    yield owner
    owner.close()


def places() -> list[Hierarchy]:
    """Every hierarchy of this host that can freeze."""
    return [
        Hierarchy(version, mountpoint, frozenset())
        for version, _, _, mountpoint in mounts({"freezer"})
    ]


def started(group: Group, command: str = BUSY) -> subprocess.Popen[bytes]:
    """A shell in the group, as a jail is put there."""
    with ExitStack() as opened:
        entrances = group.entrances(opened)

        def enter() -> None:
            for entrance in entrances:
                os.write(entrance, b"0")

        return subprocess.Popen(["sh", "-c", command], preexec_fn=enter, start_new_session=True)


async def goes_on(group: Group) -> None:
    """Processor time is used in it. Raises TimeoutError where none is."""
    before = group.cpu_us()
    async with asyncio.timeout(10):
        while group.cpu_us() == before:
            await asyncio.sleep(0.01)


async def ended(process: subprocess.Popen[bytes], group: Group) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    group.freezer.thaw()
    process.wait()
    await group.remove()


@pytest.mark.parametrize("place", places(), ids=lambda place: f"v{place.version}")
async def test_a_group_that_forks_all_the_time_stands_still_and_goes_on(
    ownership: Ownership, place: Hierarchy
) -> None:
    groups = Cgroups(ownership)
    group = groups.create("1", Limits(pids=64, count_cpu=True))
    group.freezer = Freezer(group.directories, place, ownership.name("1-paused"))
    process = started(group)
    try:
        for _ in range(3):
            await asyncio.sleep(0.05)
            await group.freezer.freeze()
            before = group.cpu_us()
            await asyncio.sleep(0.3)
            assert group.cpu_us() == before
            group.freezer.thaw()
            await goes_on(group)
    finally:
        await ended(process, group)
    assert not list(place.parent.glob(f"{ownership.name('')}*"))


async def test_what_cannot_be_stopped_in_time_goes_on(
    ownership: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FREEZE_TIMEOUT_S", 0.05)
    monkeypatch.setattr(module, "_is_frozen", lambda group: False)
    group = Cgroups(ownership).create("1", Limits(count_cpu=True))
    process = started(group)
    try:
        with pytest.raises(SandboxError) as refused:
            await group.freezer.freeze()
        assert refused.value.code is ErrorCode.TIMEOUT
        await goes_on(group)
    finally:
        await ended(process, group)


async def test_a_pause_that_nobody_waits_for_does_not_come_to_be(ownership: Ownership) -> None:
    group = Cgroups(ownership).create("1", Limits(count_cpu=True))
    process = started(group)
    try:
        freezing = asyncio.create_task(group.freezer.freeze())
        await asyncio.sleep(0)
        freezing.cancel()
        await asyncio.gather(freezing, return_exceptions=True)
        if freezing.cancelled():  # version 2 may have come to its end at once
            await goes_on(group)
    finally:
        await ended(process, group)


async def test_without_a_group_or_a_place_it_is_refused_with_the_mend(tmp_path: Path) -> None:
    for freezer in (
        Freezer([], find_freezer(), "unused"),
        Freezer([tmp_path], None, "unused"),
        Freezer([tmp_path], Hierarchy(2, tmp_path / "missing", frozenset()), "unused"),
    ):
        with pytest.raises(SandboxError) as refused:
            await freezer.freeze()
        assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
        assert "delegated cgroup" in refused.value.message
        freezer.thaw()


@pytest.mark.parametrize("place", places(), ids=lambda place: f"v{place.version}")
async def test_what_a_dead_daemon_left_frozen_is_ended_by_the_next(
    tmp_path: Path, place: Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = Ownership(tmp_path / "locks")
    group = Cgroups(dead).create("1", Limits(count_cpu=True))
    group.freezer = Freezer(group.directories, place, dead.name("1-paused"))
    process = started(group)
    await group.freezer.freeze()
    dead.close()
    monkeypatch.setattr("mas_sandbox.runtimes.cgroup.find_freezer", lambda: place)
    alive = Ownership(tmp_path / "locks")
    began = time.monotonic()
    reaping = asyncio.create_task(asyncio.to_thread(process.wait, 10))
    await asyncio.to_thread(Cgroups, alive)
    assert await reaping == -signal.SIGKILL
    assert time.monotonic() - began < 5
    assert not [path for path in group.directories if path.exists()]
    alive.close()


def test_finding_a_freezer_leaves_no_group() -> None:
    found = find_freezer()
    assert found is not None, "this host has nothing to pause with"
    assert found.version == max(each.version for each in places())
    assert not list(found.parent.glob(f"*probe-{os.getpid()}*"))
    assert all(each.controls for each in find_hierarchies())
