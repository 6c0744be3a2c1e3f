"""Executors that start a daemon of their own: answers, deaths, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from doubles import stdio_daemon
from mas_sandbox.sdk import (
    AsyncLocalExecutor,
    BadReply,
    DaemonLost,
    DaemonUnavailable,
    InvalidRequest,
    LocalExecutor,
    Overloaded,
    PolicyDenied,
)
from mas_sandbox.sdk.daemon_command import daemon_command
from mas_sandbox.sdk.local_daemon import LocalDaemon

COMMAND = [sys.executable, "-I", "-S", str(stdio_daemon.__file__)]


def children() -> set[int]:
    """Living and unreaped processes that this one started (proc(5))."""
    found = set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError):  # a thread that has ended meanwhile
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def _leaves_nothing() -> Iterator[None]:
    asyncio.new_event_loop().close()  # what asyncio itself keeps open is not ours
    before = children(), descriptors(), threading.active_count()
    yield
    deadline = time.monotonic() + 5  # asyncio's thread that waits for a child ends after the child
    while threading.active_count() != before[2] and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (children(), descriptors(), threading.active_count()) == before


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_call_goes_out_and_its_answer_comes_back(keep_alive: bool) -> None:
    with LocalExecutor(COMMAND, keep_alive=keep_alive) as executor:
        result = executor.execute(
            "echo",
            {"n": 1},
            tool_call_id="c1",
            policy={"mem_mb": 64},
            sandbox_id="sb_1",
            idempotency_key="k",
        )
    assert result.result == {
        "id": "c1",
        "tool": "echo",
        "args": {"n": 1},
        "policy": {"mem_mb": 64},
        "sandbox_id": "sb_1",
        "idempotency_key": "k",
    }
    assert (result.tool_call_id, result.usage.wall_ms) == ("c1", 250.0)
    assert [str(control) for control in result.enforced] == ["timeout"]


def test_a_failed_call_is_a_result_and_an_overloaded_daemon_an_exception() -> None:
    executor = LocalExecutor(COMMAND)
    with pytest.raises(PolicyDenied, match="scripted"):
        executor.execute("fail", {"code": "policy_denied"}).raise_for_error()
    with pytest.raises(Overloaded):
        executor.execute("fail", {"code": "overloaded"})


def test_a_kept_daemon_serves_many_threads_at_once_each_its_own_answer() -> None:
    before = children()
    with LocalExecutor(COMMAND, keep_alive=True) as executor, ThreadPoolExecutor(16) as threads:
        executor.execute("echo")
        kept = children()
        started = time.monotonic()
        results = threads.map(
            lambda n: executor.execute("sleep", {"seconds": 0.2, "n": n}), range(16)
        )
        assert [result.result["args"]["n"] for result in results] == list(range(16))
        assert time.monotonic() - started < 16 * 0.2 / 2
        assert children() == kept
        assert len(kept - before) == 1


def test_an_id_that_is_already_running_is_refused() -> None:
    with LocalExecutor(COMMAND, keep_alive=True) as executor, ThreadPoolExecutor(1) as threads:
        executor.execute("echo")
        first = threads.submit(executor.execute, "sleep", {"seconds": 1.5}, tool_call_id="c1")
        time.sleep(0.7)
        with pytest.raises(InvalidRequest, match="already running"):
            executor.execute("echo", tool_call_id="c1")
        assert first.result().ok


@pytest.mark.parametrize("keep_alive", [False, True])
@pytest.mark.parametrize(
    ("tool", "words"),
    [("die", r"status 3[\s\S]*audit log cannot be opened"), ("killed", "signal 9")],
)
def test_a_daemon_that_dies_under_a_call_says_its_last_words(
    tool: str, words: str, keep_alive: bool
) -> None:
    with LocalExecutor(COMMAND, keep_alive=keep_alive) as executor:
        with pytest.raises(DaemonLost, match=words):
            executor.execute(tool)
        assert executor.execute("echo").ok


def test_every_call_of_a_dying_daemon_is_told() -> None:
    with LocalExecutor(COMMAND, keep_alive=True) as executor, ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(executor.execute, "sleep", {"seconds": 30}) for _ in range(7)]
        time.sleep(1.0)
        with pytest.raises(DaemonLost):
            executor.execute("killed")
        errors = {id(call.exception(5)) for call in calls}
        assert len(errors) == 7


@pytest.mark.parametrize("tool", ["garbage", "anonymous"])
def test_a_reply_that_is_none_is_a_bad_reply(tool: str) -> None:
    with LocalExecutor(COMMAND, keep_alive=True) as executor:
        with pytest.raises(BadReply):
            executor.execute(tool)
        assert executor.execute("echo").ok


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_daemon_that_neither_answers_nor_leaves_is_ended(keep_alive: bool) -> None:
    with (
        LocalExecutor(COMMAND, keep_alive=keep_alive, timeout=0.5) as executor,
        pytest.raises(DaemonLost, match="longer `timeout`"),
    ):
        executor.execute("stubborn")


def test_a_large_answer_arrives_whole() -> None:
    size = 3_000_000
    assert len(LocalExecutor(COMMAND).execute("large", {"bytes": size}).result) == size

    async def scenario() -> int:
        result = await AsyncLocalExecutor(COMMAND).execute("large", {"bytes": size})
        return len(result.result)

    assert asyncio.run(scenario()) == size


@pytest.mark.parametrize("command", [["/no/such/mas-sandboxd"], ["/"]])
def test_a_missing_daemon_says_how_to_get_one(command: list[str]) -> None:
    with pytest.raises(DaemonUnavailable, match="MAS_SANDBOXD"):
        LocalExecutor(command).execute("echo")

    async def scenario() -> None:
        with pytest.raises(DaemonUnavailable, match="MAS_SANDBOXD"):
            await AsyncLocalExecutor(command).execute("echo")

    asyncio.run(scenario())


def test_runtime_and_policy_file_become_flags(tmp_path: Path) -> None:
    show = [sys.executable, "-c", "import sys; sys.exit(' '.join(sys.argv[1:]))"]
    executor = LocalExecutor(show, runtime="jail", policy_file=tmp_path / "p.yaml")
    with pytest.raises(DaemonLost, match=f"-runtime jail -policy {tmp_path}/p.yaml"):
        executor.execute("echo")


def test_a_daemon_that_ended_before_a_call_says_why() -> None:
    daemon = LocalDaemon([sys.executable, "-c", "import sys; sys.exit('no such flag')"])
    deadline = time.monotonic() + 20
    while not daemon.ended and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(DaemonLost, match=r"(?s)which did not run.*no such flag"):
        daemon.submit("one", b"{}")
    daemon.close()


def test_the_daemon_is_found_by_variable_then_beside_this_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAS_SANDBOXD", "/opt/mas-sandboxd -runtime 'jail'")
    assert daemon_command() == ["/opt/mas-sandboxd", "-runtime", "jail"]
    monkeypatch.delenv("MAS_SANDBOXD")
    beside, elsewhere = tmp_path / "venv/mas-sandboxd", tmp_path / "path/mas-sandboxd"
    for program in (beside, elsewhere):
        program.parent.mkdir()
        program.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(beside.with_name("python")))
    monkeypatch.setenv("PATH", str(elsewhere.parent))
    assert daemon_command() == [str(beside)]
    beside.unlink()
    assert daemon_command() == [str(elsewhere)]
    elsewhere.unlink()
    assert daemon_command() == [sys.executable, "-m", "mas_sandbox.server.main"]


def test_the_http_stack_is_not_imported_for_a_local_call() -> None:
    program = (
        "import json, sys; from mas_sandbox.sdk import LocalExecutor\n"
        f"assert LocalExecutor({COMMAND!r}).execute('echo').ok\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(run.stdout)}
    assert not loaded & {
        "httpx2",
        "websockets",
        "fastapi",
        "starlette",
        "uvicorn",
        "yaml",
        "asyncio",
        "rich",
    }


@pytest.mark.parametrize("keep_alive", [False, True])
def test_the_async_executor_does_the_same(keep_alive: bool) -> None:
    async def scenario() -> None:
        async with AsyncLocalExecutor(COMMAND, keep_alive=keep_alive) as executor:
            calls = [executor.execute("sleep", {"seconds": 0.1, "n": n}) for n in range(4)]
            results = await asyncio.gather(*calls)
            assert [result.result["args"]["n"] for result in results] == [0, 1, 2, 3]
            with pytest.raises(DaemonLost, match=r"status 3[\s\S]*audit log"):
                await executor.execute("die")
            with pytest.raises(BadReply):
                await executor.execute("garbage")
            with pytest.raises(Overloaded):
                await executor.execute("fail", {"code": "overloaded"})
            assert (await executor.execute("echo")).ok

    asyncio.run(scenario())


@pytest.mark.parametrize("keep_alive", [False, True])
def test_a_cancelled_async_call_ends_its_process(keep_alive: bool) -> None:
    async def scenario() -> None:
        executor = AsyncLocalExecutor(COMMAND, keep_alive=keep_alive)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await executor.execute("stubborn")
        await executor.aclose()

    asyncio.run(scenario())


def test_a_silent_daemon_is_given_up_by_the_async_executor() -> None:
    async def scenario() -> None:
        async with AsyncLocalExecutor(COMMAND, timeout=0.3) as executor:
            with pytest.raises(DaemonLost, match="longer `timeout`"):
                await executor.execute("stubborn")

    asyncio.run(scenario())
