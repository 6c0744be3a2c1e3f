"""What a call does in every runtime. Differences are what a sandbox declares in `enforced`."""

from __future__ import annotations

import asyncio
import time

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio


def bash(command: str, **limits: object) -> Call:
    return Call("bash", {"command": command}, **limits)  # type: ignore[arg-type]


async def running(sandbox: Sandbox, program: str) -> int:
    """How often this is in the command lines of processes, as a call inside sees them."""
    pattern = f"[{program[0]}]{program[1:]}"  # does not find the grep itself
    lines = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
    outcome = await sandbox.run(bash(f"{lines} | grep -ao '{pattern}' | wc -l"))
    return int(outcome.stdout)


async def test_a_function_tool_returns_its_value(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(Call("calculator", {"expression": "15 * 8 + 7"}))
    assert (outcome.has_value, outcome.value, outcome.exit_code) == (True, 127, 0)


async def test_a_program_tool_gives_its_streams_and_exit_code(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(bash("echo out; echo err >&2; exit 3"))
    assert outcome.stdout == b"out\n"
    assert outcome.stderr == b"err\n"
    assert (outcome.exit_code, outcome.code, outcome.has_value) == (3, None, False)


async def test_a_signal_is_reported_as_128_plus_its_number(sandbox: Sandbox) -> None:
    assert (await sandbox.run(bash("kill -SEGV $$"))).exit_code == 139


async def test_usage_is_measured(sandbox: Sandbox) -> None:
    burn = "import time; s = time.process_time()\nwhile time.process_time() - s < 0.2: pass"
    outcome = await sandbox.run(Call("python", {"code": burn}))
    assert 150 <= outcome.cpu_ms <= outcome.wall_ms + 1000
    assert outcome.wall_ms >= 200
    assert 1 < outcome.mem_mb < 500


async def test_a_failing_tool_says_why(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(Call("read_file", {"path": "absent.txt"}))
    assert outcome.code is ErrorCode.TOOL_FAILED
    assert "absent.txt" in outcome.message
    assert outcome.exit_code != 0


async def test_an_unknown_tool_is_not_found(sandbox: Sandbox) -> None:
    assert (await sandbox.run(Call("no_such_tool", {}))).code is ErrorCode.NOT_FOUND


async def test_files_stay_for_later_calls_in_the_same_sandbox(sandbox: Sandbox) -> None:
    await sandbox.run(Call("write_file", {"path": "/workspace/a/b.txt", "content": "héllo"}))
    outcome = await sandbox.run(bash("cat a/b.txt"))
    assert outcome.stdout.decode() == "héllo"
    await sandbox.run(bash("echo more > c.txt"))
    outcome = await sandbox.run(Call("read_file", {"path": "c.txt"}))
    assert outcome.value["content"] == "more\n"


async def test_a_fresh_sandbox_sees_nothing_of_another(runtime: Runtime) -> None:
    async with await runtime.start(SandboxSpec()) as first:
        await first.run(bash("echo canary > /workspace/canary; echo canary > $TMPDIR/canary"))
    async with await runtime.start(SandboxSpec()) as second:
        outcome = await second.run(bash("ls -A /workspace $TMPDIR 2>/dev/null; pwd; ls -A"))
    assert b"canary" not in outcome.stdout


@pytest.mark.long_in_a_machine
async def test_many_calls_at_once_each_get_their_own_answer(sandbox: Sandbox) -> None:
    async def one(number: int) -> CallOutcome:
        return await sandbox.run(bash(f"sleep 0.0{number % 5}; echo {number}"))

    outcomes = await asyncio.gather(*(one(number) for number in range(40)))
    assert [int(outcome.stdout) for outcome in outcomes] == list(range(40))


@pytest.mark.serial  # it reads the clock
async def test_a_timeout_ends_the_whole_process_tree(sandbox: Sandbox) -> None:
    daemon = "(trap '' TERM HUP INT; setsid sh -c 'trap \"\" TERM; sleep 61.25' & ) ; sleep 60"
    started = time.monotonic()
    outcome = await sandbox.run(bash(daemon, timeout_ms=400))
    assert outcome.code is ErrorCode.TIMEOUT
    assert time.monotonic() - started < 2.4
    assert await running(sandbox, "sleep 61.25") == 0


async def test_what_a_call_leaves_running_ends_with_it(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(bash("setsid sleep 62.5 >/dev/null 2>&1 & disown; echo started"))
    assert outcome.stdout == b"started\n"
    assert await running(sandbox, "sleep 62.5") == 0


async def test_a_grandchild_that_holds_the_pipe_open_does_not_hold_the_call(
    sandbox: Sandbox,
) -> None:
    started = time.monotonic()
    outcome = await sandbox.run(bash("sleep 63 & echo done"))
    assert outcome.stdout == b"done\n"
    assert time.monotonic() - started < 5


async def test_ending_one_call_leaves_the_others_processes_alone(sandbox: Sandbox) -> None:
    kept = asyncio.create_task(
        sandbox.run(bash("(sleep 0.8; echo from the daemonised child > kept) & disown; sleep 1.2"))
    )
    await asyncio.sleep(0.2)
    await sandbox.run(bash("sleep 64 & true"))
    await kept
    outcome = await sandbox.run(bash("cat kept"))
    assert outcome.stdout == b"from the daemonised child\n"


async def test_output_is_cut_at_the_limit_and_the_call_ended(sandbox: Sandbox) -> None:
    flood = asyncio.create_task(sandbox.run(bash("yes", output_bytes=100_000)))
    other = await sandbox.run(Call("calculator", {"expression": "6 * 7"}))
    assert other.value == 42
    outcome = await flood
    assert outcome.code is ErrorCode.OUTPUT_LIMIT
    assert outcome.truncated
    assert len(outcome.stdout) == 100_000


async def test_a_large_output_within_the_limit_arrives_whole(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(bash("head -c 3000000 /dev/zero", output_bytes=4_000_000))
    assert outcome.stdout == bytes(3_000_000)
    assert outcome.code is None


async def test_cancelling_the_caller_ends_the_call(sandbox: Sandbox) -> None:
    task = asyncio.create_task(sandbox.run(bash("sleep 65.5")))
    while not await running(sandbox, "sleep 65.5"):
        await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for _ in range(40):
        if await running(sandbox, "sleep 65.5") == 0:
            return
        await asyncio.sleep(0.05)
    pytest.fail("the cancelled call's process is still there")


async def test_arguments_beyond_a_frame_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(SandboxError) as refused:
        await sandbox.run(Call("write_file", {"path": "x", "content": "y" * (1 << 20)}))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert (await sandbox.run(bash("echo alive"))).stdout == b"alive\n"


async def test_the_environment_is_clean_but_for_what_the_call_names(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAEMON_CANARY", "canary-in-the-daemon")
    async with await runtime.start(SandboxSpec()) as sandbox:
        outcome = await sandbox.run(
            bash("env; cat /proc/self/environ /proc/$PPID/environ 2>/dev/null", env={"GIVEN": "x"})
        )
    assert b"GIVEN=x" in outcome.stdout
    assert b"canary" not in outcome.stdout


async def test_variables_that_steer_the_loader_are_refused(sandbox: Sandbox) -> None:
    for name in ("LD_PRELOAD", "PYTHONPATH", "BASH_ENV"):
        outcome = await sandbox.run(bash("true", env={name: "/tmp/x"}))
        assert outcome.code is ErrorCode.INVALID_REQUEST, name


async def test_no_descriptor_is_inherited(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(
        Call("python", {"code": "import os; print(sorted(os.listdir('/proc/self/fd')))"})
    )
    assert outcome.stdout in (b"['0', '1', '2', '3']\n",)  # 3 is the listing itself


async def test_a_killed_toolrunner_is_guest_lost_and_the_next_sandbox_works(
    runtime: Runtime,
) -> None:
    async with await runtime.start(SandboxSpec()) as sandbox:
        call = asyncio.create_task(sandbox.run(bash("sleep 66")))
        await asyncio.sleep(0.2)
        kill_toolrunner(sandbox)
        with pytest.raises(SandboxError) as lost:
            async with asyncio.timeout(3):
                await call
        assert lost.value.code is ErrorCode.GUEST_LOST
        with pytest.raises(SandboxError):
            await sandbox.run(bash("true"))
    async with await runtime.start(SandboxSpec()) as sandbox:
        assert (await sandbox.run(bash("echo ok"))).stdout == b"ok\n"


def kill_toolrunner(sandbox: Sandbox) -> None:
    """End it from the host's side, by the process id its channel's peer had at the start."""
    import os
    import signal

    from census import toolrunners

    for process in toolrunners(sandbox):
        os.kill(process, signal.SIGKILL)
