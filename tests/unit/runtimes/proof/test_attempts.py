"""The self-test sees a wall that is not there, and finds nothing wrong with those that are.

Where a wall is missing on purpose, its attempt succeeds on this very host: each is
harmless then, as the attempts promise.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.cgroup import Cgroups, find_hierarchies
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.local import LocalRuntime
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.runtimes.proof.attempts import ATTEMPTS, Seen, Untried
from mas_sandbox.runtimes.proof.run import Start, Verdict, attack
from mas_sandbox.runtimes.proof.stage import CANARY, Stage
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

UNTRIED = {Control.EGRESS, Control.BANDWIDTH}
"""The daemon's own, which no sandbox has a part in."""
Build = Callable[[Runtime], Awaitable[Sandbox]]


@pytest.fixture
def ownership(tmp_path: Path) -> Ownership:
    return Ownership(tmp_path / "locks")


@pytest.fixture
async def unwalled(ownership: Ownership) -> AsyncIterator[Start]:
    """A plain process on this host, whatever limits are asked for."""
    runtime = LocalRuntime(ownership)
    yield runtime._start
    await runtime.close()


@pytest.fixture
async def ungrouped(ownership: Ownership) -> AsyncIterator[Start]:
    """A jail whose control group counts and limits nothing."""
    counting = [
        replace(each, controls=frozenset({Control.CPU_TIME}))
        for each in find_hierarchies()
        if Control.CPU_TIME in each.controls
    ]
    runtime = JailRuntime(ownership, Cgroups(ownership, counting))
    await runtime.probe()
    tools = runtime._tools
    assert tools is not None

    async def start(spec: SandboxSpec) -> Sandbox:
        return await runtime.start_with(tools, replace(spec, iops=None))

    yield start
    await runtime.close()


async def verdict(start: Start, control: Control) -> Verdict:
    return (await attack(start, {control}))[control]


@pytest.mark.parametrize(
    ("control", "how"),
    [
        (Control.FILESYSTEM, "written on the host"),
        (Control.PATHS, "could be changed"),
        (Control.HOST_PATHS, "does not appear"),
        (Control.NETWORK, "was reached"),
        (Control.PROCESSES, "a process of the host's"),
        (Control.SYSCALLS, "was answered"),
        (Control.DISK, "bytes were written"),
        (Control.DISK_FILES, "files were made"),
    ],
)
async def test_a_process_without_a_wall_is_seen(
    unwalled: Start, control: Control, how: str
) -> None:
    found = await verdict(unwalled, control)
    assert how in found.broke
    assert found.final


@pytest.mark.parametrize(
    ("control", "how"),
    [
        (Control.MEMORY, "MiB were used"),
        (Control.PIDS, "processes ran"),
        (Control.CPU, "ms of processor time"),
        (Control.IO, "reads took"),
    ],
)
async def test_a_control_group_without_its_limit_is_seen(
    ungrouped: Start, control: Control, how: str
) -> None:
    for _ in range(3):  # a busy host may itself keep a sandbox from its processor
        found = await verdict(ungrouped, control)
        if found.broke:
            break
    assert how in found.broke
    assert found.final


async def test_processor_time_that_only_the_toolrunner_counts_is_seen(unwalled: Start) -> None:
    """Its sum has no part of children that nobody waited for."""
    assert "went on past" in (await verdict(unwalled, Control.CPU_TIME)).broke


class Permissive(Sandbox):
    """Passes every call on with more than it was to be given."""

    def __init__(self, inner: Sandbox) -> None:
        self.inner = inner

    async def run(self, call: Call) -> CallOutcome:
        call.output_bytes, call.nofile = 1 << 20, 512
        call.env = {CANARY: os.environ[CANARY]}
        return await self.inner.run(call)

    def oom_kills(self) -> int:
        return 0

    async def stop(self) -> None:
        await self.inner.stop()


@pytest.mark.parametrize("control", [Control.OUTPUT, Control.ENV, Control.NOFILE])
async def test_a_toolrunner_that_is_told_too_much_is_seen(
    unwalled: Start, control: Control
) -> None:
    async def start(spec: SandboxSpec) -> Sandbox:
        return Permissive(await unwalled(spec))

    found = await verdict(start, control)
    assert found.broke
    assert found.final


def test_a_call_that_outlives_its_deadline_is_seen() -> None:
    (attempt,) = (each for each in ATTEMPTS if each.control is Control.TIMEOUT)
    with Stage() as stage:
        assert attempt.broke(stage, Seen(code=None))
        assert attempt.broke(stage, Seen(code=ErrorCode.OUT_OF_MEMORY))
        assert not attempt.broke(stage, Seen(code=ErrorCode.TIMEOUT))


def test_a_program_that_never_ran_proves_nothing() -> None:
    silent = Seen(message="python3: not found")
    with Stage() as stage:
        for attempt in ATTEMPTS:
            try:
                assert attempt.broke(stage, silent), attempt.control
            except Untried:
                continue


def test_every_control_is_tried_but_the_daemons_own() -> None:
    tried = [attempt.control for attempt in ATTEMPTS]
    assert len(set(tried)) == len(tried)
    assert set(tried) == set(Control) - UNTRIED


async def test_nothing_is_wrong_with_the_jail(jail: Runtime) -> None:
    controls = (await jail.probe()).controls
    assert set(controls) == set(Control)
    assert not [status.mend for status in controls.values() if "self-test" in status.mend]


async def test_a_sandbox_that_does_not_start_leaves_every_control_unproven() -> None:
    from mas_sandbox.wire.errors import SandboxError

    starts = 0

    async def start(spec: SandboxSpec) -> Sandbox:
        nonlocal starts
        starts += 1
        raise SandboxError(ErrorCode.SANDBOX_CRASH, "no room")

    verdicts = await attack(start, Control)
    assert set(verdicts) == set(Control) - UNTRIED
    assert all("no room" in found.broke and not found.final for found in verdicts.values())
    assert starts < 10


async def test_one_limit_that_does_not_start_spoils_no_other(ungrouped: Start) -> None:
    from mas_sandbox.wire.errors import SandboxError

    async def start(spec: SandboxSpec) -> Sandbox:
        if spec.disk_files is not None:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, "no inodes")
        return await ungrouped(spec)

    verdicts = await attack(start, {Control.DISK_FILES, Control.OUTPUT, Control.DISK})
    assert "no inodes" in verdicts[Control.DISK_FILES].broke
    assert not verdicts[Control.OUTPUT].broke
    assert not verdicts[Control.DISK].broke


def test_the_stage_leaves_nothing_behind() -> None:
    with Stage() as stage:
        root, victim = stage.sentinel.parent, stage.victim
        assert root.exists()
        assert os.environ[CANARY] == stage.secret
    assert not root.exists()
    assert victim.returncode is not None
    assert CANARY not in os.environ
