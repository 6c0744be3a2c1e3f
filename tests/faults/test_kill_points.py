"""FI-13: the daemon is killed at each line that starting, using and stopping a sandbox goes
through; the next one finds nothing that it cannot remove.

A life is gone through once to see its lines, then again for each line, to die there. A few of
them are taken each time; FAULT_ROUNDS=1000 takes all.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import mas_sandbox.runtimes
from faults.dice import dice, rounds
from faults.remains import Remains
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.local import LocalRuntime
from mas_sandbox.runtimes.microvm.runtime import MicrovmRuntime
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.messages import Call

ROOM = str(Path(mas_sandbox.runtimes.__file__ or "").parent)
SPEC = SandboxSpec(mem_mb=64, pids=20)
LIFE_S = 60
Line = tuple[str, int]
Start = Callable[[Runtime], Awaitable[Sandbox]]


@dataclass(frozen=True)
class Life:
    """How a sandbox of one runtime is started by a daemon that has probed already; `few`: how
    many of its lines are taken each time."""

    start: Start
    few: int


def prepared(name: str, state: Path) -> tuple[Runtime, Life]:
    """A probed runtime, and what a daemon would do that had probed it."""
    runtime = build_runtime(name, state=state)

    async def prepare() -> None:
        assert (await runtime.probe()).available
        if name == "microvm":
            await (await runtime.start(SPEC)).stop()  # its template is there from now on

    asyncio.run(prepare())

    async def start(fresh: Runtime) -> Sandbox:
        match fresh, runtime:
            case (JailRuntime(), JailRuntime(_tools=tools)):
                assert tools is not None
                return await fresh.start_with(tools, SPEC)
            case (GvisorRuntime(), GvisorRuntime(_tools=tools)):
                assert tools is not None
                return await fresh.start_with(tools, SPEC)
            case (MicrovmRuntime(), MicrovmRuntime(_driver=driver)):
                assert driver is not None
                return await fresh._start(driver, SPEC)
            case (LocalRuntime(), _):
                return await fresh._start(SandboxSpec())
            case _:
                raise AssertionError(name)

    return runtime, Life(start, {"jail": 24, "local": 10}.get(name, 4))


def live(name: str, state: Path, life: Life, told: int, end: Line | None) -> None:
    """In a process of its own: tells its token, and the lines where it is not to `end` at one."""
    seen: dict[Line, None] = {}

    def line(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            place = (frame.f_code.co_filename, frame.f_lineno)
            seen[place] = None
            if place == end:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def trace(frame: FrameType, _: str, __: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(ROOM) else None

    async def main() -> None:
        runtime = build_runtime(name, state=state)
        os.write(told, runtime._ownership.token.encode() + b"\n")  # type: ignore[attr-defined]
        threading.settrace(trace)
        sys.settrace(trace)
        sandbox = await life.start(runtime)
        await sandbox.run(Call("bash", {"command": "sleep 0.01"}))
        await sandbox.stop()
        await runtime.close()
        sys.settrace(None)

    asyncio.run(main())
    os.write(told, json.dumps(list(seen)).encode())


def lived(name: str, state: Path, life: Life, end: Line | None) -> tuple[str, list[Line], int]:
    """Its token, the lines it went through, and how it ended (waitpid(2))."""
    reader, told = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            signal.alarm(LIFE_S)
            live(name, state, life, told, end)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    os.close(told)
    with os.fdopen(reader, "rb") as heard:
        token, _, lines = heard.read().partition(b"\n")
    _, status = os.waitpid(process, 0)
    return token.decode(), [(place, at) for place, at in json.loads(lines or b"[]")], status


@pytest.mark.parametrize("name", ["local", "jail", "gvisor", "microvm"])
def test_FI_13_killed_at_any_line_of_a_sandboxs_life(
    name: str, tmp_path: Path, templates: Path
) -> None:
    state = templates if name == "microvm" else tmp_path
    runtime, life = prepared(name, state)
    with Remains(state) as remains:
        token, lines, status = lived(name, state, life, None)
        assert status == 0
        assert len(lines) > 50
        remains.knows([token])
        remains.settled(killed=False)
        seed = secrets.randbelow(1 << 32)
        print(f"seed {seed}")
        missed = 0
        chosen = dice(seed).sample(lines, min(len(lines), rounds(life.few)))
        for line in chosen:
            token, _, status = lived(name, state, life, line)
            assert status in (0, signal.SIGKILL), (line, status)
            missed += status == 0  # which lines there are depends a little on who is quicker
            remains.knows([token])
            try:
                remains.settled(killed=True)
            except AssertionError as error:
                raise AssertionError(f"killed at {line}") from error
        assert missed <= len(chosen) // 4
    asyncio.run(runtime.close())
