"""Limits of files, disks and processor time: in every runtime each is held, or refused."""

from __future__ import annotations

import time

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

FILES = 40
IOPS = 40
CREATE = """
import os
for directory in ('.', os.environ['TMPDIR'], '/dev/shm'):
    made = 0
    try:
        while made < 200:
            os.mkdir(f'{directory}/resource-limit-{os.getpid()}-{made}')
            made += 1
    except OSError as error:
        print(made, error.errno)
    for number in range(made):
        os.rmdir(f'{directory}/resource-limit-{os.getpid()}-{number}')
os.mkdir('again')
"""
READ = """
import mmap, os, sys, time
file = os.open(os.path.realpath(sys.executable), os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 4096)
started = time.monotonic()
for number in range(20):
    os.preadv(file, [page], number * 4096)
print(time.monotonic() - started)
"""
HIDE = """
import os, signal, time
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    if os.fork() == 0:
        while time.process_time() < 0.02: pass
        os._exit(0)
    try: os.wait()
    except OSError: pass
"""


async def started(runtime: Runtime, spec: SandboxSpec) -> Sandbox | None:
    """A sandbox with these limits; None where they are refused, as they then must be."""
    if spec.limits <= (await runtime.probe()).enforced:
        return await runtime.start(spec)
    with pytest.raises(SandboxError) as refused:
        await runtime.start(spec)
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    return None


def python(code: str, **limits: int) -> Call:
    return Call("python", {"code": code}, **({"timeout_ms": 30_000} | limits))


async def test_RX_05_files_and_directories_end_at_their_number(runtime: Runtime) -> None:
    sandbox = await started(runtime, SandboxSpec(disk_files=FILES))
    if sandbox is None:
        return
    async with sandbox:
        outcome = await sandbox.run(python(CREATE))
    ends = [tuple(map(int, line.split())) for line in outcome.stdout.decode().splitlines()]
    assert len(ends) >= 2
    for made, error in ends:
        assert FILES - 3 <= made <= FILES
        assert error == 28  # ENOSPC
    assert outcome.exit_code == 0, "no room again after the files were removed"


async def test_reads_of_a_disk_wait_for_their_turn(runtime: Runtime) -> None:
    sandbox = await started(runtime, SandboxSpec(iops=IOPS))
    if sandbox is None:
        return
    async with sandbox:
        outcome = await sandbox.run(python(READ))
    # The kernel hands out a tenth of a second's worth at once, and at the start twice that.
    assert float(outcome.stdout) > 0.8 * (20 - 2 * IOPS / 10) / IOPS


async def test_a_tree_of_processes_ends_at_its_processor_time(runtime: Runtime) -> None:
    if Control.CPU_TIME not in (await runtime.probe()).enforced:
        return
    spin = "(while :; do :; done) & (while :; do :; done) & wait"
    async with await runtime.start(SandboxSpec()) as sandbox:
        outcome = await sandbox.run(Call("bash", {"command": spin}, timeout_ms=30_000, cpu_ms=200))
        assert outcome.code is ErrorCode.TIMEOUT
        assert "cpu_ms" in outcome.message
        over = await sandbox.run(Call("bash", {"command": "echo over"}, timeout_ms=10_000))
        assert over.stdout == b"over\n"


async def test_processor_time_cannot_be_hidden_in_children_nobody_waits_for(
    runtime: Runtime,
) -> None:
    if Control.CPU_TIME not in (await runtime.probe()).enforced:
        return
    async with await runtime.start(SandboxSpec()) as sandbox:
        used, begun = sandbox.cpu_us(), time.monotonic()
        assert used is not None
        with pytest.raises(SandboxError, match="cpu_ms") as ended:
            outcome = await sandbox.run(python(HIDE, cpu_ms=200))
            raise SandboxError(outcome.code or ErrorCode.INTERNAL, outcome.message)
        assert ended.value.code is ErrorCode.TIMEOUT
        assert time.monotonic() - begun < 25
        assert (sandbox.cpu_us() or 0) - used < 2_000_000
        over = await sandbox.run(Call("bash", {"command": "echo over"}, timeout_ms=10_000))
        assert over.stdout == b"over\n"


async def test_a_call_within_its_processor_time_is_left_alone(runtime: Runtime) -> None:
    async with await runtime.start(SandboxSpec()) as sandbox:
        outcome = await sandbox.run(
            Call("bash", {"command": "sleep 0.3; echo done"}, timeout_ms=20_000, cpu_ms=2000)
        )
    assert outcome.stdout == b"done\n"
    assert outcome.code is None
