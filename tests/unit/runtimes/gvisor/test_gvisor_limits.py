"""Limits of a gVisor sandbox, each reached on purpose, and those that are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.cgroup import Cgroups
from mas_sandbox.runtimes.gvisor.posture import descendants
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio


def bash(command: str, timeout_ms: int = 15_000) -> Call:
    return Call("bash", {"command": command}, timeout_ms=timeout_ms)


def running(process: int) -> bool:
    """Whether it has not ended; who has to reap it is none of ours."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture
async def without_groups() -> AsyncIterator[GvisorRuntime]:
    ownership = Ownership()
    built = GvisorRuntime(ownership, Cgroups(ownership, []))
    yield built
    await built.close()


async def test_RX_01_a_fork_bomb_stops_at_the_process_limit(gvisor: GvisorRuntime) -> None:
    async with await gvisor.start(SandboxSpec(pids=20)) as sandbox:
        bomb = "bomb() { bomb | bomb & }; bomb; sleep 1; ls /proc | grep -c '^[0-9]'; sleep 9"
        outcome = await sandbox.run(bash(bomb, timeout_ms=2000))
        assert outcome.code is ErrorCode.TIMEOUT
        assert b"Resource temporarily unavailable" in outcome.stderr
        assert (await sandbox.run(bash("echo over"))).stdout == b"over\n"


async def test_RX_02_what_does_not_fit_is_out_of_memory(gvisor: GvisorRuntime) -> None:
    async with await gvisor.start(SandboxSpec(mem_mb=96)) as sandbox:
        assert (await sandbox.run(bash("echo up"))).stdout == b"up\n"
        with pytest.raises(SandboxError) as ended:
            await sandbox.run(Call("python", {"code": "x = b'x' * (1 << 30)"}, timeout_ms=20_000))
        assert ended.value.code is ErrorCode.OUT_OF_MEMORY


async def test_RX_03_a_spinning_program_gets_its_share_of_the_processor(
    gvisor: GvisorRuntime,
) -> None:
    async with await gvisor.start(SandboxSpec(cpus=0.5)) as sandbox:
        before = sandbox.cpu_us()
        spin = "timeout 2 sh -c 'while :; do :; done'"
        await sandbox.run(bash(f"{spin} & {spin} & wait"))
        after = sandbox.cpu_us()
    assert before is not None
    assert after is not None
    assert after - before < 1_700_000  # half of one processor for two seconds and its end


async def test_RX_05_a_full_disk_is_the_sandboxs_own(gvisor: GvisorRuntime) -> None:
    async with await gvisor.start(SandboxSpec(disk_mb=8)) as sandbox:
        for place in ("/workspace", "/tmp"):
            outcome = await sandbox.run(bash(f"head -c 16M /dev/zero > {place}/big"))
            assert b"No space left" in outcome.stderr
        freed = await sandbox.run(bash("rm /workspace/big && echo x > /workspace/y && cat y"))
        assert freed.stdout == b"x\n"


@pytest.mark.parametrize(
    ("spec", "control"),
    [
        (SandboxSpec(disk_files=10), Control.DISK_FILES),
        (SandboxSpec(iops=10), Control.IO),
    ],
)
async def test_what_gvisor_cannot_hold_is_refused(
    gvisor: GvisorRuntime, spec: SandboxSpec, control: Control
) -> None:
    with pytest.raises(SandboxError) as refused:
        await gvisor.start(spec)
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    assert control in refused.value.message
    assert "to mend it" in refused.value.message


async def test_without_control_groups_memory_is_refused_and_the_rest_is_held(
    without_groups: GvisorRuntime,
) -> None:
    probe = await without_groups.probe()
    assert probe.available, probe.reason
    assert {Control.PIDS, Control.DISK, Control.NETWORK} <= probe.enforced
    assert not {Control.MEMORY, Control.CPU, Control.CPU_TIME, Control.PATHS} & probe.enforced
    with pytest.raises(SandboxError) as refused:
        await without_groups.start(SandboxSpec(mem_mb=64))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE


async def test_stopping_ends_everything_before_it_returns(without_groups: GvisorRuntime) -> None:
    async with await without_groups.start(SandboxSpec()) as sandbox:
        storm = "for i in $(seq 50); do (kill -STOP $BASHPID; sleep 73.5) & done; sleep 73.5"
        call = asyncio.create_task(sandbox.run(bash(storm)))
        while len(processes := [sandbox.init, *descendants(sandbox.init)]) < 50:
            await asyncio.sleep(0.1)
    assert not [process for process in processes if running(process)]
    with pytest.raises(SandboxError):
        await call
