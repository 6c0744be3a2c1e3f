"""Every runtime's sandboxes can be stopped where they stand, and go on."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

import census
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.cgroup_find import find_freezer, find_hierarchies
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind
from mas_sandbox.wire.messages import Call
from mas_sandbox.wire.process import Process

pytestmark = pytest.mark.anyio

TICK = "import os, time\nwhile True: os.write(1, b'.'); time.sleep(0.01)"
SPIN = "while True: pass"


async def _python(sandbox: Sandbox, code: str) -> bytes:
    outcome = await sandbox.run(Call("python", {"code": code}, timeout_ms=60_000))
    assert outcome.exit_code == 0, outcome
    return outcome.stdout


async def test_what_runs_in_it_stands_still_and_goes_on(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(Process(["python3", "-c", TICK]))
    counted = 0

    async def count() -> None:
        nonlocal counted
        while piece := await stream.read():
            counted += len(piece[1]) if piece[0] is Kind.STDOUT else 0

    counting = asyncio.create_task(count())
    async with asyncio.timeout(30):
        while counted < 10:
            await asyncio.sleep(0.01)
    await sandbox.pause()
    before = -1
    async with asyncio.timeout(30):
        while counted != before:  # what was on its way still comes
            before = counted
            await asyncio.sleep(1)
    await sandbox.resume()
    async with asyncio.timeout(30):
        while counted < before + 10:
            await asyncio.sleep(0.01)
    stream.cancel()
    async with asyncio.timeout(30):
        await counting
    assert await _python(sandbox, "print(1)") == b"1\n"


async def test_a_paused_sandbox_uses_no_processor(sandbox: Sandbox) -> None:
    if sandbox.cpu_us() is None:
        return  # nothing here counts: the test before shows that it stands still
    stream = sandbox.channel.start(Process(["python3", "-c", SPIN]))
    await stream.started
    await sandbox.pause()
    before = sandbox.cpu_us()
    await asyncio.sleep(1)
    after = sandbox.cpu_us()
    assert before is not None
    assert after is not None
    # An emulator's own threads wake now and then.
    assert after - before < (100_000 if isinstance(sandbox, MicrovmSandbox) else 5_000)
    await sandbox.resume()
    stream.cancel()


async def test_files_stay_and_SS_03_the_clock_is_right_before_the_first_call(
    sandbox: Sandbox,
) -> None:
    await _python(sandbox, "open('kept', 'w').write('kept')")
    for _ in range(2):
        await sandbox.pause()
        await asyncio.sleep(1.5)
        await sandbox.resume()
        told = await _python(
            sandbox,
            "import json, time; print(json.dumps([time.time(), open('kept').read()]))",
        )
        moment, kept = json.loads(told)
        assert kept == "kept"
        assert abs(time.time() - moment) < 1


async def test_it_is_not_paused_under_a_call_and_takes_none_while_it_is(sandbox: Sandbox) -> None:
    call = Call("bash", {"command": "sleep 0.5; echo over"}, timeout_ms=60_000)
    running = asyncio.create_task(sandbox.run(call))
    await asyncio.sleep(0.1)
    with pytest.raises(SandboxError) as refused:
        await sandbox.pause()
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert (await running).stdout == b"over\n"
    await sandbox.pause()
    with pytest.raises(SandboxError, match="resume it first"):
        await sandbox.run(call)
    with pytest.raises(SandboxError, match="resume it first"):
        sandbox.channel.start(Process(["true"]))
    await sandbox.resume()
    assert (await sandbox.run(call)).stdout == b"over\n"


@pytest.mark.parametrize("name", ["local", "jail", "gvisor", "microvm"])
async def test_ending_it_while_it_is_paused_leaves_nothing(name: str, templates: Path) -> None:
    runtime: Runtime = build_runtime(name, state=templates)
    assert (await runtime.probe()).available
    others = _descendants()
    sandbox = await runtime.start(SandboxSpec(pids=None if name == "local" else 64))
    await sandbox.channel.start(Process(["python3", "-c", SPIN])).started
    await sandbox.pause()
    processes, groups = _descendants() - others, _groups(sandbox)
    assert processes
    assert groups or name == "local"
    began = time.monotonic()
    await sandbox.stop()
    assert time.monotonic() - began < 5
    assert not _groups(sandbox)
    # A jail's first process may wait, dead, for this host's to reap it.
    assert not {each for each, command in census.commands().items() if command} & processes
    await runtime.close()


def _descendants() -> set[int]:
    found = census.children(os.getpid())
    for process in found:  # it grows as it is read
        found += census.children(process)
    return set(found) - census.zygotes()


def _groups(sandbox: Sandbox) -> list[Path]:
    """The control groups of the daemon that made it."""
    token = sandbox.id.rsplit("-", 1)[0]
    places = [each.parent for each in find_hierarchies()]
    freezer = find_freezer()
    places += [freezer.parent] if freezer is not None else []
    return [path for place in places for path in place.glob(f"{token}-*")]
