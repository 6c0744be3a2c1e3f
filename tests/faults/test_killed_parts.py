"""FI-03, FI-04, FI-05, FI-14: what a sandbox is made of is killed or stopped under a call."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from census import toolrunners
from faults.remains import Remains, tokens
from mas_sandbox.runtimes import channel
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.grouped import GroupedSandbox
from mas_sandbox.runtimes.gvisor.posture import descendants
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call
from security.corpus.ground import members

pytestmark = pytest.mark.anyio

ENDS = frozenset({ErrorCode.GUEST_LOST, ErrorCode.SANDBOX_CRASH})
PARTS = {
    "jail": ("outside", "first", "toolrunner"),
    "gvisor": ("outside", "first", "runsc", "runsc-gofer", "runsc-sandbox"),
    "microvm": ("monitor",),
}


@pytest.fixture(scope="module")
async def parted(
    request: pytest.FixtureRequest, templates: Path
) -> AsyncIterator[tuple[Runtime, Remains]]:
    built = build_runtime(request.param, state=templates)
    assert (await built.probe()).available
    if request.param == "microvm":
        await (await built.start(SandboxSpec())).stop()  # the template stays open
    with Remains(templates) as remains:
        remains.knows(tokens(os.getpid()))
        yield built, remains
    await built.close()


def part(sandbox: Sandbox, name: str) -> int:
    """The host's process id of a part of it."""
    match sandbox, name:
        case (MicrovmSandbox(), _):
            return sandbox.vm.pid
        case (GroupedSandbox(), "outside"):
            return int(Path(f"/proc/{sandbox.init}/stat").read_text().rpartition(")")[2].split()[1])
        case (GroupedSandbox(), "first"):
            return sandbox.init
        case (JailSandbox(), "toolrunner"):
            return toolrunners(sandbox)[0]
        case (GroupedSandbox(), _):
            named = [
                each
                for each in descendants(sandbox.init)
                if words(each) in (name, f"/usr/bin/{name}")
            ]
            return named[0]
        case _:
            raise AssertionError(sandbox)


def words(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()


async def running(sandbox: Sandbox, timeout_ms: int) -> asyncio.Task[object]:
    """A call whose program runs."""
    command = "touch started; sleep 30; echo through"
    call = asyncio.create_task(
        sandbox.run(Call("bash", {"command": command}, timeout_ms=timeout_ms))
    )
    looking = {"command": "until [ -e started ]; do sleep 0.01; done; rm started"}
    await sandbox.run(Call("bash", looking, timeout_ms=20_000))
    return call


@pytest.mark.parametrize(
    ("parted", "name"),
    [
        pytest.param(
            runtime, part, id=f"{'FI_04' if runtime == 'microvm' else 'FI_05'}-{runtime}-{part}"
        )
        for runtime, parts in PARTS.items()
        for part in parts
    ],
    indirect=["parted"],
)
async def test_a_part_that_is_killed_ends_the_call_with_a_typed_error(
    parted: tuple[Runtime, Remains], name: str
) -> None:
    runtime, remains = parted
    before = len(remains.things())
    async with await runtime.start(SandboxSpec()) as sandbox:
        call = await running(sandbox, 60_000)
        os.kill(part(sandbox, name), signal.SIGKILL)
        with pytest.raises(SandboxError) as lost:
            async with asyncio.timeout(2):
                await call
        assert lost.value.code in ENDS
        with pytest.raises(SandboxError):  # it is not used again
            await sandbox.run(Call("bash", {"command": "true"}))
    assert len(remains.things()) == before
    async with await runtime.start(SandboxSpec()) as sandbox:
        outcome = await sandbox.run(Call("bash", {"command": "echo another"}))
        assert outcome.stdout == b"another\n"
    await asyncio.to_thread(remains.gone)


@pytest.mark.parametrize(
    ("parted", "name", "beat_s"),
    # An emulated machine may be that slow beside others, and not be lost.
    [("jail", "toolrunner", 0.2), ("microvm", "monitor", 0.7)],
    indirect=["parted"],
    ids=["jail-toolrunner", "microvm-monitor"],
)
async def test_FI_03_what_hangs_is_lost_after_three_heartbeats(
    parted: tuple[Runtime, Remains], name: str, beat_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "HEARTBEAT_S", beat_s)
    runtime, remains = parted
    async with await runtime.start(SandboxSpec()) as sandbox:
        call = await running(sandbox, 60_000)
        began = time.monotonic()
        os.kill(part(sandbox, name), signal.SIGSTOP)
        with pytest.raises(SandboxError) as lost:
            async with asyncio.timeout(5):
                await call
        assert lost.value.code is ErrorCode.GUEST_LOST
        assert time.monotonic() - began < beat_s * 4 + 1
    await asyncio.to_thread(remains.gone)


@pytest.mark.parametrize("parted", ["jail", "microvm"], indirect=True)
async def test_FI_14_the_kernel_would_end_a_sandbox_before_the_daemon(
    parted: tuple[Runtime, Remains],
) -> None:
    """And in a jail, whose processes it sees, a call before the toolrunner. (KS-12 looks at
    every process of every runtime.)"""
    async with await parted[0].start(SandboxSpec()) as sandbox:
        call = await running(sandbox, 60_000)
        scores = {each: score(each) for each in members(sandbox)}
        assert min(scores.values()) > score(os.getpid())
        if isinstance(sandbox, JailSandbox):
            (toolrunner,) = toolrunners(sandbox)
            calls = descendants(toolrunner)
            assert calls
            assert min(scores[each] for each in calls) > scores[toolrunner]
        call.cancel()
        await asyncio.wait({call})


def score(process: int) -> int:
    return int(Path(f"/proc/{process}/oom_score_adj").read_text())
