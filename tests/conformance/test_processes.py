"""What a process that the host starts does in every runtime, through the sandbox's channel."""

from __future__ import annotations

import asyncio
import os

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.live import LiveStream
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind
from mas_sandbox.wire.messages import Call, Result
from mas_sandbox.wire.process import Process

pytestmark = pytest.mark.anyio

PATIENCE_S = 30.0


def shell(command: str, **options: object) -> Process:
    return Process(["/bin/sh", "-c", command], **options)  # type: ignore[arg-type]


class Reader:
    """What a stream gave, by kind, read until something is there or all of it."""

    def __init__(self, stream: LiveStream) -> None:
        self.stream = stream
        self.output = {Kind.STDOUT: b"", Kind.STDERR: b""}

    @property
    def stdout(self) -> bytes:
        return self.output[Kind.STDOUT]

    async def until(self, wanted: bytes) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while wanted not in self.stdout:
                piece = await self.stream.read()
                assert piece is not None, f"it ended after {self.stdout[-200:]!r}"
                self.output[piece[0]] += piece[1]

    async def end(self) -> Result:
        async with asyncio.timeout(PATIENCE_S):
            while (piece := await self.stream.read()) is not None:
                self.output[piece[0]] += piece[1]
            return await self.stream.result


async def run(sandbox: Sandbox, process: Process) -> tuple[Reader, Result]:
    reader = Reader(sandbox.channel.start(process))
    return reader, await reader.end()


async def lives(sandbox: Sandbox, pid: int) -> bool:
    reader, _ = await run(sandbox, shell(f"cat /proc/{pid}/stat 2>/dev/null"))
    return bool(reader.stdout) and b") Z " not in reader.stdout


async def eventually_gone(sandbox: Sandbox, pid: int) -> bool:
    for _ in range(100):
        if not await lives(sandbox, pid):
            return True
        await asyncio.sleep(0.02)
    return False


async def test_it_starts_and_ends_with_its_output_and_usage(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(shell("echo $$; echo err >&2; exit 3"))
    pid = await stream.started
    reader = Reader(stream)
    result = await reader.end()
    assert (int(reader.stdout), reader.output[Kind.STDERR]) == (pid, b"err\n")
    assert (result.exit_code, result.code) == (3, "")
    assert result.max_rss_kb > 100


async def test_it_is_who_calls_are_and_where_they_are(sandbox: Sandbox) -> None:
    show = "id -u; id -g; pwd; echo $HOME; umask"
    reader, _ = await run(sandbox, shell(show))
    outcome = await sandbox.run(Call("bash", {"command": show}))
    assert reader.stdout == outcome.stdout


async def test_it_is_behind_the_walls_that_calls_are_behind(sandbox: Sandbox) -> None:
    show = (
        'grep -E "^(NoNewPrivs|CapEff|CapBnd|Seccomp):" /proc/self/status; ulimit -a;'
        " cat /proc/self/cgroup"
    )
    reader, _ = await run(sandbox, shell(show))
    outcome = await sandbox.run(Call("bash", {"command": f"exec /bin/sh -c '{show}'"}))
    assert reader.stdout == outcome.stdout
    deny, read_only = "echo x >denied; ls denied", [("/workspace", "ro")]
    reader, _ = await run(sandbox, shell(deny, paths=read_only))
    outcome = await sandbox.run(Call("bash", {"command": deny}, paths=read_only))
    assert reader.stdout == outcome.stdout


async def test_nobody_types_into_a_terminal_of_the_jail(jail: Runtime) -> None:
    script = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')"
    async with await jail.start(SandboxSpec()) as sandbox:
        reader, _ = await run(sandbox, Process(["python3", "-c", script], pty=(30, 100)))
    assert b"Operation not permitted" in reader.stdout


async def test_a_program_that_is_not_there_is_not_found(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(Process(["no-such-program"]))
    result = await Reader(stream).end()
    assert (result.code, result.reason) == ("not_found", "not_found")
    assert "no-such-program" in result.message
    assert stream.started.cancelled()


async def test_another_user_is_refused(sandbox: Sandbox) -> None:
    _, result = await run(sandbox, Process(["true"], user="somebody-else"))
    assert result.code == "invalid_request"


async def test_input_and_output_flow_together(sandbox: Sandbox) -> None:
    data = os.urandom(2_000_000)
    stream = sandbox.channel.start(Process(["cat"]))
    reader = Reader(stream)

    async def feed() -> None:
        await stream.write(data)
        stream.write_eof()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(feed())
        result = await reader.end()
    assert (reader.stdout == data, result.exit_code) == (True, 0)


async def test_a_terminal_has_a_size_echoes_and_is_resized(sandbox: Sandbox) -> None:
    script = "stty size; trap 'stty size; exit 6' WINCH; read x; echo got $x; while :; do sleep 0.05; done"
    stream = sandbox.channel.start(shell(script, pty=(30, 100)))
    reader = Reader(stream)
    await reader.until(b"30 100\r\n")
    await stream.write(b"typed\n")
    await reader.until(b"got typed\r\n")
    stream.resize(41, 132)
    result = await reader.end()
    assert b"41 132\r\n" in reader.stdout
    assert result.exit_code == 6


async def test_the_interrupt_character_and_the_end_of_input_of_a_terminal(
    sandbox: Sandbox, runtime: Runtime
) -> None:
    stream = sandbox.channel.start(
        shell(
            "trap 'echo caught; stop=1' INT; echo ready;"
            " until [ $stop ]; do sleep 0.05; done; cat; exit 4",
            pty=(30, 100),
        )
    )
    reader = Reader(stream)
    await reader.until(b"ready")
    await stream.write(b"\x03")
    await reader.until(b"caught\r\n")
    await stream.write(b"line\n")
    await reader.until(b"line\r\nline\r\n")
    stream.write_eof()
    if runtime.name == "gvisor":
        stream.cancel()  # its terminals know no end of file
    assert (await reader.end()).exit_code == (137 if runtime.name == "gvisor" else 4)


async def test_bash_has_job_control_in_a_terminal(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(Process(["/bin/bash", "--norc", "-i"], pty=(30, 100)))
    reader = Reader(stream)
    await stream.write(b"sleep 60 & jobs; kill %1; fg; echo D''ONE\n")
    await reader.until(b"DONE")
    assert b"no job control" not in reader.stdout
    assert b"Running" in reader.stdout
    await stream.write(b"exit 5\n")
    assert (await reader.end()).exit_code == 5


async def test_a_signal_and_a_cancel_end_it(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(Process(["sleep", "60"]))
    await stream.started
    stream.signal(15)
    assert (await Reader(stream).end()).exit_code == 143
    stream = sandbox.channel.start(shell("sleep 60 & echo $!; sleep 60"))
    reader = Reader(stream)
    await reader.until(b"\n")
    stream.cancel()
    result = await reader.end()
    assert (result.exit_code, result.code) == (137, "interrupted")
    assert await eventually_gone(sandbox, int(reader.stdout))


async def test_a_timeout_ends_the_whole_tree(sandbox: Sandbox) -> None:
    tree = "(trap '' TERM; setsid sleep 61 & echo $!); sleep 60"
    reader, result = await run(sandbox, shell(tree, timeout_ms=1500))
    assert (result.exit_code, result.code) == (137, "timeout")
    assert await eventually_gone(sandbox, int(reader.stdout))


async def test_the_background_lives_on_where_an_orphan_of_a_call_does_not(
    sandbox: Sandbox,
) -> None:
    leave = "nohup sleep 60 >/dev/null 2>&1 & echo $!"
    reader, _ = await run(sandbox, shell(leave))
    left = int(reader.stdout)
    for _ in range(3):
        outcome = await sandbox.run(Call("bash", {"command": leave}))
        assert not await lives(sandbox, int(outcome.stdout))
    assert await lives(sandbox, left)


async def test_what_the_background_goes_on_writing_is_dropped_and_breaks_nothing(
    sandbox: Sandbox,
) -> None:
    flood = "(while echo 01234567890123456789; do :; done; echo >broke) & echo $! >pid"
    _, result = await run(sandbox, shell(flood))
    assert result.exit_code == 0
    await asyncio.sleep(0.3)
    reader, _ = await run(sandbox, shell("cat pid; ls broke"))
    assert await lives(sandbox, int(reader.stdout))
    assert b"broke" not in reader.stdout
    await run(sandbox, shell("kill -9 $(cat pid)", paths=[("/", "rw")]))


async def test_a_reader_that_is_slow_holds_up_its_own_process_alone(sandbox: Sandbox) -> None:
    flood = sandbox.channel.start(Process(["head", "-c", "2000000", "/dev/zero"]))
    await flood.started
    for _ in range(3):
        reader, _ = await run(sandbox, shell("head -c 300000 /dev/zero"))
        assert len(reader.stdout) == 300_000
    reader = Reader(flood)
    await reader.end()
    assert len(reader.stdout) == 2_000_000


async def test_many_at_once_each_have_their_own_streams(sandbox: Sandbox) -> None:
    async def one(number: int) -> bytes:
        reader, _ = await run(sandbox, shell(f"sleep 0.0{number % 5}; echo {number}"))
        return reader.stdout

    outputs = await asyncio.gather(*(one(number) for number in range(12)))
    assert [int(output) for output in outputs] == list(range(12))


async def test_a_call_beside_it_goes_its_own_way(sandbox: Sandbox) -> None:
    stream = sandbox.channel.start(Process(["cat"]))
    outcome = await sandbox.run(Call("calculator", {"expression": "6 * 7"}))
    assert outcome.value == 42
    await stream.write(b"still here")
    stream.write_eof()
    reader = Reader(stream)
    await reader.end()
    assert reader.stdout == b"still here"


async def test_the_end_of_the_sandbox_is_the_end_of_its_processes(runtime: Runtime) -> None:
    async with await runtime.start(SandboxSpec()) as sandbox:
        stream = sandbox.channel.start(Process(["sleep", "60"]))
        await stream.started
    with pytest.raises(SandboxError) as raised:
        await stream.result
    assert raised.value.code in (ErrorCode.INTERRUPTED, ErrorCode.GUEST_LOST)
