"""`AsyncSandbox` against a real daemon, and that it has all that `Sandbox` has."""

from __future__ import annotations

import asyncio
import inspect
import io
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mas_sandbox import sdk
from mas_sandbox.sdk import (
    AsyncSandbox,
    CommandFailed,
    Exited,
    FileNotFound,
    InvalidRequest,
    NotADirectory,
    NotFound,
    Output,
    OutputLimit,
    Sandbox,
    Started,
    ToolFailed,
)
from mas_sandbox.sdk.asked import files as asked_files
from running_daemon import TOKEN, RunningDaemon

Scenario = Callable[[AsyncSandbox], Awaitable[None]]


@pytest.fixture(scope="module")
def play(running: RunningDaemon, sb: Sandbox) -> Callable[[Scenario], None]:
    def played(scenario: Scenario) -> None:
        async def main() -> None:
            async with await AsyncSandbox.connect(sb.id, running.url, TOKEN) as connected:
                await scenario(connected)

        asyncio.run(main())

    return played


TWINS = ["Attachment", "Client", "Code", "CodeContext", "Files", "Ports", "Process", "Processes"]
TWINS += ["Sandbox", "Stream", "Tunnel"]


def public(kind: type) -> dict[str, object]:
    found = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
    if "aclose" in found:
        found["close"] = found.pop("aclose")
    return found


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_methods_with_the_same_parameters(name: str) -> None:
    one, other = public(getattr(sdk, name)), public(getattr(sdk, f"Async{name}"))
    assert set(one) == set(other)
    for member, method in one.items():
        if not inspect.isfunction(method):
            assert type(method) is type(other[member])
            continue
        twin = other[member]
        assert inspect.isfunction(twin)
        plain, mirrored = (list(inspect.signature(each).parameters) for each in (method, twin))
        assert plain == mirrored, member


def test_a_sandbox_lives_for_its_block_and_is_listed(running: RunningDaemon) -> None:
    async def main() -> None:
        options = {"metadata": {"run": "async"}}
        async with await AsyncSandbox.create(running.url, TOKEN, metadata={"run": "async"}) as made:
            found = [each async for each in AsyncSandbox.list(running.url, TOKEN, **options)]
            assert [each.sandbox_id for each in found] == [made.id]
            assert (await made.pause()).state == "paused"
            assert (await made.resume(90)).timeout_s == 90
            assert (await made.extend(50)).timeout_s == 50
            assert (await made.execute("bash", {"command": "pwd"})).result == "/workspace\n"
            assert (await made.refresh()).state == "running"
        assert made.info.state == "ended"
        with pytest.raises(NotFound):
            await AsyncSandbox.connect("sb_none", running.url, TOKEN)

    asyncio.run(main())


def test_programs(play: Callable[[Scenario], None]) -> None:
    async def scenario(sb: AsyncSandbox) -> None:
        told: list[str] = []
        ran = await sb.run("cat; echo err >&2; exit 3", stdin="x" * 300_000, on_stdout=told.append)
        assert (ran.exit_code, ran.stderr, ran.stdout) == (3, "err\n", "x" * 300_000)
        assert "".join(told) == ran.stdout
        with pytest.raises(CommandFailed):
            ran.check()
        assert (await sb.run("head -c 3", stdin="x" * 3_000_000)).check().stdout == "xxx"
        assert (await sb.run(["cat"])).stdout == ""
        process = await sb.processes.start("read line; echo got $line; read line", tag="fed")
        await process.write("this\n")
        await process.close_stdin()
        events = [event async for event in process]
        assert [type(event) for event in events] == [Started, Output, Exited]
        assert (await process.wait()).exit_code == 1
        assert (await sb.processes.get("fed")).pid == process.pid
        with pytest.raises(ToolFailed):
            await process.write("more")
        with pytest.raises(InvalidRequest):
            await process.resize(1, 1)
        sleeping = await sb.processes.start(["sleep", "60"])
        assert (await sleeping.wait(0.05)).state == "running"
        await sleeping.signal("SIGSTOP")
        assert (await sleeping.kill()).signal == 9
        assert (await sleeping.refresh()).state == "exited"

    play(scenario)


def test_cancelling_a_task_ends_the_program_that_it_runs(play: Callable[[Scenario], None]) -> None:
    async def scenario(sb: AsyncSandbox) -> None:
        begun = asyncio.Event()
        program = "echo begun; sleep 60"
        running = asyncio.create_task(
            sb.run(program, stdin="x" * 3_000_000, on_stdout=lambda _: begun.set())
        )
        await asyncio.wait_for(begun.wait(), 20)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        async with asyncio.timeout(20):
            while any(each.state == "running" for each in await sb.processes.list()):
                await asyncio.sleep(0.02)

    play(scenario)


def test_a_terminal_is_talked_to(play: Callable[[Scenario], None]) -> None:
    async def scenario(sb: AsyncSandbox) -> None:
        process = await sb.processes.start("stty size; read x; stty size", pty=(33, 100))
        async with await process.attach() as attached:
            written = b""
            async for event in attached:
                written += event.data if isinstance(event, Output) else b""
                if written == b"33 100\r\n":
                    await attached.resize(40, 120)
                    await attached.write("\n")
        assert written.endswith(b"40 120\r\n")
        async with await sb.processes.open(["cat"]) as attached:
            await attached.write(b"y" * 300_000)
            await attached.close_stdin()
            pieces = [each.data async for each in attached if isinstance(each, Output)]
        assert sum(map(len, pieces)) == 300_000
        async with await sb.processes.open(["sleep", "60"]) as attached:
            await attached.signal(15)
            ends = [event async for event in attached if isinstance(event, Exited)]
        assert [each.signal for each in ends] == [15]
        process.pid = 999_999
        with pytest.raises(NotFound, match="no such process"):
            await process.attach()

    play(scenario)


def test_files(play: Callable[[Scenario], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"piece"

    async def scenario(sb: AsyncSandbox) -> None:
        files = sb.files
        assert (await files.write("f/a", "text", mode=0o600)).mode == 0o600
        assert (await files.write("f/b", io.BytesIO(b"x" * 600_000))).size == 600_000
        assert (await files.write("f/c", iter([b"1", b"2"]))).size == 2
        assert (await files.write("f/d", pieces())).size == 15
        assert (await files.read_text("f/a"), await files.read("f/c")) == ("text", b"12")
        async with files.stream("f/b") as stream:
            assert sum([len(piece) async for piece in stream]) == 600_000
        assert [each.name for each in await files.list("f")] == ["a", "b", "c", "d"]
        written = await files.write_many({"f/m": "1", "f/n": "x" * 600_000})
        assert [each.size for each in written] == [1, 600_000]
        with pytest.raises(NotADirectory):
            await files.write_many({"f/a/below": ""})
        await files.move("f/m", "f/moved")
        assert (await files.exists("f/m"), await files.exists("f/moved")) == (False, True)
        assert (await files.stat("f/moved")).size == 1
        await files.mkdir("f/dir")
        async with files.watch("f") as changes:
            await files.write("f/dir/unseen", "")
            await files.write("f/seen", "")
            assert (await anext(changes)).path == "/workspace/f/seen"
        async with files.download_archive("f/dir") as parts:
            archive = b"".join([part async for part in parts])
        assert (await files.upload_archive("f/dir", archive)).entries >= 1
        assert (await files.upload_archive("f/dir", io.BytesIO(archive))).entries >= 1
        assert (await files.sign("f/a")).startswith("http://127.0.0.1:")
        monkeypatch.setattr(asked_files, "MAX_ENTRIES", 3)
        with pytest.raises(OutputLimit):
            await files.list("f")
        await files.remove("f", recursive=True)
        with pytest.raises(FileNotFound):
            await files.read("f/a")

    play(scenario)
