"""The log as a daemon uses it: durable, shared, and sound after every kind of end."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.audit.canonical import canonical
from mas_sandbox.audit.log import KEY_NAME, LOG_NAME, AuditLog
from mas_sandbox.audit.read import follow, tail
from mas_sandbox.audit.storage import Storage
from mas_sandbox.audit.verify import verify
from mas_sandbox.wire.errors import ErrorCode, SandboxError

ALLOWED = {"action": "allow", "rule": "operator/tools", "reason": "the tool is listed"}


async def intend(log: AuditLog, call_id: str, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "principal": "agent",
        "sandbox_id": "",
        "tool": "bash",
        "args": {"command": "ls"},
        "decision": ALLOWED,
        "trace": {"run_id": "r1"},
    }
    await log.intent(call_id=call_id, **(fields | changes))


async def conclude(log: AuditLog, call_id: str) -> None:
    await log.outcome(
        call_id=call_id,
        status="ok",
        code="",
        exit_code=0,
        cpu_ms=3,
        wall_ms=12,
        isolation="process",
        enforced=["memory", "timeout"],
    )


async def call(log: AuditLog, call_id: str) -> None:
    await intend(log, call_id)
    await conclude(log, call_id)


def write_calls(directory: Path, *names: str) -> Path:
    async def main() -> None:
        log = AuditLog.open(directory)
        for name in names:
            await call(log, name)
        await log.close()

    asyncio.run(main())
    return directory / LOG_NAME


class CountingStorage(Storage):
    def __init__(self) -> None:
        self.syncs = 0

    def sync(self, descriptor: int) -> None:
        self.syncs += 1
        super().sync(descriptor)


class UnsyncedStorage(Storage):
    def sync(self, descriptor: int) -> None:
        """Nothing: for tests that end no machine."""


class FullDisk(Storage):
    """Writes half of what it is given, then has no space, until told otherwise."""

    def __init__(self) -> None:
        self.full = False

    def write(self, descriptor: int, data: bytes) -> None:
        if self.full:
            os.write(descriptor, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(descriptor, data)


class FailingSync(Storage):
    failing = False

    def sync(self, descriptor: int) -> None:
        if self.failing:
            raise OSError(errno.EIO, "Input/output error")
        super().sync(descriptor)


def test_a_call_leaves_an_intent_and_an_outcome_that_verify(tmp_path: Path) -> None:
    log = write_calls(tmp_path, "c1")
    start, intent, outcome, stop = map(json.loads, log.read_text().splitlines())
    assert [start["kind"], stop["kind"]] == ["start", "stop"]
    assert intent["kind"] == "intent"
    assert intent["decision"] == ALLOWED
    assert intent["trace"] == {"run_id": "r1"}
    assert outcome["kind"] == "outcome"
    assert (outcome["call_id"], outcome["exit_code"], outcome["wall_ms"]) == ("c1", 0, 12)
    found = verify(log)
    assert (found.problems, found.records, found.calls, found.unfinished) == ([], 4, 1, 0)
    assert found.head == stop["digest"]


def test_an_intent_is_in_the_file_when_it_returns(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        await intend(log, "c1")
        assert verify(log.path).unfinished == 1
        await conclude(log, "c1")
        assert verify(log.path).unfinished == 0
        await log.close()

    asyncio.run(main())


def test_callers_that_arrive_together_share_a_sync(tmp_path: Path) -> None:
    async def main() -> int:
        storage = CountingStorage()
        log = AuditLog.open(tmp_path, storage=storage)
        await asyncio.gather(*(intend(log, f"c{n}") for n in range(200)))
        syncs = storage.syncs
        await asyncio.gather(*(conclude(log, f"c{n}") for n in range(200)))
        await log.close()
        return syncs

    assert asyncio.run(main()) == 1
    assert verify(tmp_path / LOG_NAME).calls == 200


def test_the_event_loop_goes_on_while_the_disk_is_slow(tmp_path: Path) -> None:
    release = threading.Event()

    class Slow(Storage):
        def sync(self, descriptor: int) -> None:
            release.wait(10)

    async def main() -> None:
        log = AuditLog.open(tmp_path, storage=Slow())
        intent = asyncio.create_task(intend(log, "c1"))
        await asyncio.sleep(0.05)
        assert not intent.done()
        release.set()
        await intent
        await conclude(log, "c1")
        await log.close()

    asyncio.run(main())


def test_arguments_are_an_hmac_unless_the_operator_opts_in(tmp_path: Path) -> None:
    args = {"command": "echo s3cret", "limit": 1.5}

    async def main(record_args: bool) -> dict[str, Any]:
        log = AuditLog.open(tmp_path, record_args=record_args)
        await intend(log, "c1", args=args)
        record = tail(log.path, 1)[0]
        await conclude(log, "c1")
        await log.close()
        return record

    record = asyncio.run(main(False))
    assert b"s3cret" not in (tmp_path / LOG_NAME).read_bytes()
    assert "args_json" not in record
    key = (tmp_path / KEY_NAME).read_bytes()
    assert record["args_hmac"] == hmac.new(key, canonical(args), hashlib.sha256).hexdigest()
    assert (tmp_path / KEY_NAME).stat().st_mode & 0o777 == 0o600
    assert json.loads(asyncio.run(main(True))["args_json"]) == args


HOSTILE = 'x\r\n{"kind":"stop"}\n\x1b[2J\u2028\u2029\u0085\x00\x9b31m\u202e\ud800'


def test_no_value_can_forge_or_split_a_record(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path, record_args=True)
        await intend(
            log,
            HOSTILE,
            principal=HOSTILE,
            tool=HOSTILE,
            args={HOSTILE: HOSTILE},
            trace={HOSTILE: HOSTILE, "digest": HOSTILE},
        )
        await conclude(log, HOSTILE)
        await log.close()

    asyncio.run(main())
    content = (tmp_path / LOG_NAME).read_bytes()
    assert content.isascii()
    assert len(content.splitlines()) == 4
    assert not set(content) & (set(range(32)) - {10})
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.records, found.unfinished) == ([], 4, 0)
    assert tail(tmp_path / LOG_NAME, 3)[0]["principal"] == HOSTILE


def test_args_that_are_not_json_refuse_that_call_only(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        with pytest.raises(SandboxError, match="NaN") as refused:
            await intend(log, "c1", args={"x": float("nan")})
        assert refused.value.code is ErrorCode.INVALID_REQUEST
        await call(log, "c2")
        await log.close()

    asyncio.run(main())
    assert verify(tmp_path / LOG_NAME).calls == 1


def test_a_line_torn_at_any_byte_is_moved_aside_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = write_calls(tmp_path, "c1")
    whole = log.read_bytes()
    begin = len(b"".join(whole.splitlines(keepends=True)[:-2]))
    aside = log.with_name(f"{LOG_NAME}.torn-1")

    async def reopened() -> None:
        await AuditLog.open(tmp_path, storage=UnsyncedStorage()).close()

    for cut in range(begin, len(whole) + 1):
        torn = whole[:cut].rpartition(b"\n")[2]
        log.write_bytes(whole[:cut])
        aside.unlink(missing_ok=True)
        asyncio.run(reopened())
        assert verify(log).problems == [], cut
        assert log.read_bytes().startswith(whole[: cut - len(torn)]), cut
        recovered = [record["torn_bytes"] for record in tail(log, 3) if "torn_bytes" in record]
        assert recovered == ([len(torn)] if torn else []), cut
        assert (aside.read_bytes() if torn else b"") == torn, cut


def test_a_log_changed_at_its_end_is_not_built_upon(tmp_path: Path) -> None:
    log = write_calls(tmp_path, "c1")
    log.write_bytes(log.read_bytes().replace(b'"kind":"stop"', b'"kind":"stpo"'))
    with pytest.raises(SandboxError, match="move it aside") as refused:
        AuditLog.open(tmp_path)
    assert refused.value.code is ErrorCode.INTERNAL


@pytest.mark.parametrize("how", ["cut", "removed", "replaced"])
def test_a_log_that_is_taken_away_under_the_daemon_refuses_calls(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        await call(log, "c1")
        if how == "cut":
            os.truncate(log.path, 100)
        else:
            log.path.rename(tmp_path / "elsewhere")
        if how == "replaced":
            log.path.touch()
        with pytest.raises(SandboxError, match="calls are refused until"):
            await intend(log, "c2")
        await log.close()

    asyncio.run(main())


def test_a_full_disk_refuses_every_later_call_and_leaves_a_sound_log(tmp_path: Path) -> None:
    async def main() -> None:
        storage = FullDisk()
        log = AuditLog.open(tmp_path, storage=storage)
        await call(log, "c1")
        storage.full = True
        results = await asyncio.gather(
            *(intend(log, f"d{n}") for n in range(5)), return_exceptions=True
        )
        assert all(isinstance(result, SandboxError) for result in results)
        storage.full = False
        with pytest.raises(SandboxError, match="No space left") as refused:
            await intend(log, "e")
        assert refused.value.code is ErrorCode.INTERNAL
        await log.close()

    asyncio.run(main())
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.calls) == ([], 1)
    write_calls(tmp_path, "f")
    assert verify(tmp_path / LOG_NAME).ok


def test_a_failed_sync_is_final_until_the_next_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        storage = FailingSync()
        log = AuditLog.open(tmp_path, storage=storage)
        await intend(log, "c1")
        storage.failing = True
        with pytest.raises(SandboxError, match="Input/output error"):
            await conclude(log, "c1")
        storage.failing = False
        with pytest.raises(SandboxError, match="calls are refused"):
            await intend(log, "c2")
        await log.close()

    asyncio.run(main())
    write_calls(tmp_path, "c3")
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.calls, found.unfinished) == ([], 2, 0)


def test_closing_twice_is_fine_and_a_closed_log_refuses(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        await log.close()
        await log.close()
        with pytest.raises(SandboxError, match="closed"):
            await intend(log, "c1")

    asyncio.run(main())
    assert list((tmp_path / "daemons").iterdir()) == []


def test_a_cancelled_caller_does_not_stop_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        first = asyncio.create_task(intend(log, "c1"))
        second = asyncio.create_task(intend(log, "c2"))
        await asyncio.sleep(0)
        first.cancel()
        await second
        await log.close()

    asyncio.run(main())
    write_calls(tmp_path, "c3")
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.unfinished, found.interrupted) == ([], 0, 2)


PROGRAM = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from mas_sandbox.audit.log import AuditLog

    async def main(directory, name, count, leave_open):
        log = AuditLog.open(Path(directory))
        for n in range(count):
            await log.intent(call_id=f"{name}-{n}", principal="p", sandbox_id="", tool="t",
                args={"n": n}, decision={"action": "allow", "rule": "r", "reason": "x"}, trace={})
            if leave_open:
                print("open", flush=True)
                sys.stdin.read()
            await log.outcome(call_id=f"{name}-{n}", status="ok", code="", exit_code=0, cpu_ms=0,
                wall_ms=0, isolation="none", enforced=[])
        await log.close()

    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), len(sys.argv) > 4))
    """
)


def start(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_daemons_that_share_a_log_make_one_chain(tmp_path: Path) -> None:
    with start(str(tmp_path), "a", "40") as one, start(str(tmp_path), "b", "40") as other:
        assert one.wait(30) == other.wait(30) == 0
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.calls, found.unfinished) == ([], 80, 0)
    assert found.records == 80 * 2 + 4


def test_calls_of_a_killed_daemon_become_interrupted_and_of_a_living_one_do_not(
    tmp_path: Path,
) -> None:
    with start(str(tmp_path), "dead", "1", "x") as dead, start(str(tmp_path), "ok", "1", "x") as ok:
        assert dead.stdout is not None
        assert ok.stdout is not None
        assert (dead.stdout.readline(), ok.stdout.readline()) == (b"open\n", b"open\n")
        dead.send_signal(signal.SIGKILL)
        dead.wait(10)
        assert verify(tmp_path / LOG_NAME).unfinished == 2
        write_calls(tmp_path, "next")
        found = verify(tmp_path / LOG_NAME)
        assert (found.problems, found.interrupted, found.unfinished) == ([], 1, 1)
        settled = [r for r in tail(tmp_path / LOG_NAME, 50) if r.get("code") == "interrupted"]
        assert [r["call_id"] for r in settled] == ["dead-0"]
        ok.communicate(timeout=10)
    write_calls(tmp_path, "last")
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.interrupted, found.unfinished) == ([], 1, 0)
    assert list((tmp_path / "daemons").iterdir()) == []


def test_opening_reads_the_end_only(tmp_path: Path) -> None:
    """A hole of 1 TiB in front of the last records costs nothing."""
    content = write_calls(tmp_path, "c1").read_bytes()
    with (tmp_path / LOG_NAME).open("r+b") as log:
        log.truncate(1 << 40)
        log.seek(0, os.SEEK_END)
        log.write(b"\n" + content)
    write_calls(tmp_path, "c2")
    assert [r["seq"] for r in tail(tmp_path / LOG_NAME, 3)] == [8, 9, 10]
    assert (tmp_path / f"{LOG_NAME}.000001").stat().st_size > 1 << 40


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    write_calls(tmp_path, "c1")
    (tmp_path / KEY_NAME).chmod(0o644)
    with pytest.raises(SandboxError, match="chmod 600"):
        AuditLog.open(tmp_path)


def test_a_log_planted_as_a_link_or_fifo_is_refused(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch()
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LOG_NAME).symlink_to(victim)
    (tmp_path / "b").mkdir()
    os.mkfifo(tmp_path / "b" / LOG_NAME)
    for name in ("a", "b"):
        with pytest.raises(SandboxError, match="cannot be opened"):
            AuditLog.open(tmp_path / name)
    assert victim.read_bytes() == b""


def test_tail_gives_the_last_records_and_follow_the_coming_ones(tmp_path: Path) -> None:
    log = write_calls(tmp_path, *(f"c{n}" for n in range(200)))
    assert [r["kind"] for r in tail(log, 2)] == ["outcome", "stop"]
    assert len(tail(log, 10_000)) == 402
    assert tail(log, 0) == []
    coming = follow(log, 1)
    assert next(coming)["kind"] == "stop"
    write_calls(tmp_path, "later")
    assert [next(coming)["kind"] for _ in range(4)] == ["start", "intent", "outcome", "stop"]
    coming.close()
