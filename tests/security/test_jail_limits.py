"""The jail's limits, each reached on purpose, while a second sandbox goes on answering."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from census import commands
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

SPEC = SandboxSpec(mem_mb=128, cpus=0.5, pids=32, disk_mb=16)


def bash(command: str, timeout_ms: int = 10_000, output_bytes: int = 1 << 20) -> Call:
    return Call("bash", {"command": command}, timeout_ms=timeout_ms, output_bytes=output_bytes)


@asynccontextmanager
async def neighbour(jail: Runtime) -> AsyncIterator[list[float]]:
    """A second sandbox that must answer every call, correctly, throughout."""
    times: list[float] = []

    async def ask(sandbox: Sandbox) -> None:
        while True:
            started = time.monotonic()
            outcome = await sandbox.run(Call("calculator", {"expression": "6 * 7"}))
            assert outcome.value == 42
            times.append(time.monotonic() - started)
            await asyncio.sleep(0.05)

    async with await jail.start(SandboxSpec()) as sandbox:
        task = asyncio.create_task(ask(sandbox))
        try:
            yield times
        finally:
            done = task.done()
            task.cancel()
            if done:
                await task
    assert times, "the neighbour never answered"
    assert max(times) < 5


async def test_RX_01_a_fork_bomb_stops_at_the_process_limit(jail: Runtime) -> None:
    async with neighbour(jail), await jail.start(SPEC) as sandbox:
        call = asyncio.create_task(
            sandbox.run(bash("bomb() { bomb | bomb & }; bomb; sleep 1.5; bomb", timeout_ms=2000))
        )
        most = 0
        while not call.done():
            most = max(most, _jailed("bomb() { bomb"))
            await asyncio.sleep(0.05)
        outcome = await call
        assert outcome.code in (ErrorCode.TIMEOUT, None)
        assert 0 < most <= SPEC.pids
        assert (await sandbox.run(bash("echo over"))).stdout == b"over\n"
    assert _jailed("bomb() { bomb") == 0


async def test_RX_02_a_10_GiB_allocation_ends_at_the_memory_limit(jail: Runtime) -> None:
    async with neighbour(jail), await jail.start(SPEC) as sandbox:
        hungry = Call("python", {"code": "x = b'x' * (10 << 30)"}, timeout_ms=20_000)
        outcome = await sandbox.run(hungry)
        assert outcome.code is ErrorCode.OUT_OF_MEMORY
        assert outcome.exit_code == 137
        assert (await sandbox.run(bash("echo over"))).stdout == b"over\n"


async def test_RX_02_memory_of_several_processes_counts_together(jail: Runtime) -> None:
    async with await jail.start(SPEC) as sandbox:
        eat = "python3 -c \"import time; x = b'x' * (60 << 20); time.sleep(25)\" &"
        until_one_is_gone = "wait -n; kill $(jobs -p); wait"
        outcome = await sandbox.run(bash(f"{eat} {eat} {eat} {until_one_is_gone}", 30_000))
        assert b"Killed" in outcome.stderr  # 60 MiB each fits; three of them do not


async def test_RX_03_a_spinning_program_gets_its_share_of_the_processor(jail: Runtime) -> None:
    async with await jail.start(SPEC) as sandbox:
        spin = "timeout 2 sh -c 'while :; do :; done'"
        outcome = await sandbox.run(bash(f"{spin} & {spin} & wait", timeout_ms=8000))
    assert outcome.cpu_ms < 0.7 * outcome.wall_ms  # half of one processor, and some slack
    assert outcome.cpu_ms > 400


async def test_RX_04_an_output_flood_ends_at_the_output_limit(jail: Runtime) -> None:
    async with neighbour(jail), await jail.start(SPEC) as sandbox:
        outcome = await sandbox.run(bash("cat /dev/zero & yes >&2", output_bytes=200_000))
    assert outcome.code is ErrorCode.OUTPUT_LIMIT
    assert len(outcome.stdout) + len(outcome.stderr) == 200_000


async def test_RX_05_a_full_disk_is_the_sandboxs_own(jail: Runtime) -> None:
    async with await jail.start(SPEC) as sandbox:
        for place in ("/workspace", "/tmp"):
            outcome = await sandbox.run(bash(f"head -c 32M /dev/zero > {place}/big; ls -s {place}"))
            assert b"No space left" in outcome.stderr
        written = await sandbox.run(
            Call("write_file", {"path": "another", "content": "x" * 10_000})
        )
        assert written.code is ErrorCode.TOOL_FAILED
        assert "space" in written.message
        freed = await sandbox.run(bash("rm /workspace/big && echo x > /workspace/y && cat y"))
        assert freed.stdout == b"x\n"


async def test_RX_06_open_files_are_limited(jail: Runtime) -> None:
    code = (
        "import os, errno\n"
        "try:\n    while True: os.dup(0)\n"
        "except OSError as error: print(errno.errorcode[error.errno])\n"
    )
    async with await jail.start(SPEC) as sandbox:
        outcome = await sandbox.run(Call("python", {"code": code}, nofile=64))
    assert outcome.stdout == b"EMFILE\n"


async def test_PR_10_a_daemon_that_ignores_every_signal_ends_at_the_deadline(
    jail: Runtime,
) -> None:
    async with neighbour(jail), await jail.start(SPEC) as sandbox:
        started = time.monotonic()
        outcome = await sandbox.run(
            bash(
                "trap '' TERM HUP INT QUIT; (setsid sh -c \"trap '' TERM HUP INT; sleep 71.5\" &);"
                " sleep 72.5",
                timeout_ms=500,
            )
        )
        assert time.monotonic() - started < 2.5
        assert outcome.code is ErrorCode.TIMEOUT
        assert _jailed("sleep 71.5") == 0
        assert _jailed("sleep 72.5") == 0


async def test_PR_11_a_fork_storm_of_stopped_children_is_gone_with_its_sandbox(
    jail: Runtime,
) -> None:
    async with await jail.start(SPEC) as sandbox:
        storm = "for i in $(seq 20); do (kill -STOP $BASHPID; sleep 73.5) & done; sleep 73.5"
        outcome = await sandbox.run(bash(storm, timeout_ms=500))
        assert outcome.code is ErrorCode.TIMEOUT
    assert _jailed("sleep 73.5") == 0


async def test_a_stopped_sandbox_leaves_no_control_group(jail: Runtime) -> None:
    async with await jail.start(SPEC) as sandbox:
        groups = _groups(sandbox.id)
        assert groups
    assert _groups(sandbox.id) == []


def _jailed(pattern: str) -> int:
    return sum(pattern in command for command in commands().values())


def _groups(name: str) -> list[Path]:
    from mas_sandbox.runtimes.cgroup import find_hierarchies

    found = [hierarchy.parent / name for hierarchy in find_hierarchies()]
    return [path for path in found if path.exists()]
