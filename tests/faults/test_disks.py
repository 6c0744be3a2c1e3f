"""FI-06, FI-07, FI-08: the disk beneath the audit log is full, fails, or loses its end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import bench
from doubles.memory_runtime import MemoryRuntime, returned
from faults.dice import rounds
from faults.remains import Remains
from mas_sandbox.audit.log import LOG_NAME, PRESENCE, AuditLog
from mas_sandbox.audit.read import tail
from mas_sandbox.audit.storage import Storage
from mas_sandbox.audit.verify import verify
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server.calls import Caller, ToolRequest
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call
from running_daemon import daemon

from .test_killed_daemon import calling, until_refused, until_runs

ALICE = Caller("alice")
SUM = ToolRequest("calculator", {"expression": "1"})


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "small", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(file: Path) -> None:
    with file.open("wb", 0) as full:
        for size in (4096, 1):
            try:
                while True:
                    full.write(bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that is full")
def test_FI_06_a_full_disk_refuses_what_is_new_and_records_what_runs(small: Path) -> None:
    with Remains(small) as remains:
        with daemon(small) as running:
            remains.watch(running.process.pid)
            with calling(running, "sleep 1.23; echo through") as answers:
                until_runs(remains, "sleep 1.23")
                fill(small / "filler")
                for _ in range(3):  # the log's last page may have room for some more
                    status, reply = until_refused(running)
                    assert (status, reply["error"]["code"]) == (503, "internal")
                    assert "its disk is full" in reply["error"]["message"]
                assert running.post("/v1/sandbox/create", {})[0] == 503
            assert answers[0][0] == 200
            assert answers[0][1]["result"] == "through\n"
            running.process.send_signal(signal.SIGTERM)
            assert running.process.wait(20) == 0
        remains.settled(killed=False)
        found = verify(small / LOG_NAME)
        assert (found.problems, found.unfinished, found.interrupted) == ([], 0, 0)
        (small / "filler").unlink()
        with daemon(small) as running:
            remains.watch(running.process.pid)
            assert running.execute("calculator", {"expression": "1 + 1"})["result"] == 2


class Failing(Storage):
    """Does what `fault` does, once it is there, instead of writing or syncing."""

    fault: Any = None

    def write(self, descriptor: int, data: bytes) -> None:
        if self.fault in (_short, _nothing):
            self.fault(descriptor, data)
        super().write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self.fault is _unsynced:
            self.fault(descriptor)
        super().sync(descriptor)


def _short(descriptor: int, data: bytes) -> None:
    os.write(descriptor, data[: len(data) // 2])
    raise OSError(errno.EIO, "Input/output error")


def _nothing(descriptor: int, data: bytes) -> None:
    raise OSError(errno.EROFS, "Read-only file system")


def _unsynced(descriptor: int) -> None:
    raise OSError(errno.EIO, "Input/output error")


@pytest.mark.parametrize("fault", [_short, _nothing, _unsynced], ids=lambda each: each.__name__)
def test_FI_07_a_failing_disk_ends_what_runs_and_refuses_what_is_new(
    tmp_path: Path, fault: Any
) -> None:
    running = asyncio.Event()

    async def wait(call: Call) -> CallOutcome:
        running.set()
        await asyncio.sleep(60)
        return returned()

    async def main() -> None:
        disk = Failing()
        async with bench(tmp_path, MemoryRuntime(wait), storage=disk) as made:
            call = asyncio.create_task(made.broker.execute(ALICE, SUM))
            await running.wait()
            disk.fault = fault
            for _ in range(2):
                with pytest.raises(SandboxError, match="audit log") as refused:
                    await made.broker.execute(ALICE, SUM)
                assert refused.value.code is ErrorCode.INTERNAL
            with pytest.raises(SandboxError, match="audit log"):  # ended: it cannot be recorded
                async with asyncio.timeout(2):
                    await call
            assert len(made.runtime.sandboxes) == 1
            assert made.runtime.sandboxes[0].stopped
            disk.fault = None  # what it did with earlier records is not known all the same
            with pytest.raises(SandboxError, match="audit log"):
                await made.broker.execute(ALICE, SUM)
        async with bench(tmp_path) as made:
            await made.broker.execute(ALICE, SUM)

    asyncio.run(main())
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.unfinished) == ([], 0)
    assert found.interrupted >= 1


def test_FI_06_the_reserve_is_there_while_a_daemon_lives_and_no_longer(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path)
        (reserve,) = (tmp_path / PRESENCE).glob("*.reserve")
        assert reserve.stat().st_blocks * 512 >= 128 * 1024
        await log.close()

    asyncio.run(main())
    assert list((tmp_path / PRESENCE).iterdir()) == []


_WRITER = textwrap.dedent(
    """
    import asyncio, os, signal, sys
    from pathlib import Path
    from mas_sandbox.audit.log import AuditLog

    async def main(directory):
        log = AuditLog.open(Path(directory))
        async def call(name):
            await log.intent(call_id=name, principal="p", sandbox_id="", tool="t", args={},
                decision={"action": "allow", "rule": "r", "reason": "x"}, trace={})
            await log.outcome(call_id=name, status="ok", code="", exit_code=0, cpu_ms=0,
                wall_ms=0, isolation="none", enforced=[])
        await call("first")
        await asyncio.gather(call("second"), call("third"))
        os.kill(os.getpid(), signal.SIGKILL)

    asyncio.run(main(sys.argv[1]))
    """
)


class Unsynced(Storage):
    def sync(self, descriptor: int) -> None:
        """Nothing: no power is cut here."""


def cuts(whole: bytes) -> list[int]:
    """Every byte, or with few rounds those around each record's ends and some between."""
    step = max(1, 50 // rounds(4))
    ends = [at for at, byte in enumerate(whole) if byte == ord("\n")]
    near = {at + by for at in [0, *ends] for by in range(-1, 4)}
    return sorted(at for at in {*near, *range(0, len(whole), step)} if 0 <= at <= len(whole))


def test_FI_08_power_cut_at_any_byte_of_the_log(tmp_path: Path) -> None:
    """What was whole stays and verifies; what was torn is set aside, byte for byte, and told
    of; calls whose outcome is gone are interrupted."""
    subprocess.run([sys.executable, "-c", _WRITER, tmp_path], timeout=30, check=False)
    log = tmp_path / LOG_NAME
    whole = log.read_bytes()
    (presence,) = (tmp_path / PRESENCE).glob("*.json")
    held = presence.read_bytes()
    assert [json.loads(line)["kind"] for line in whole.splitlines()].count("outcome") == 3
    aside = log.with_name(f"{LOG_NAME}.torn-1")

    async def reopened() -> None:
        await AuditLog.open(tmp_path, storage=Unsynced()).close()

    for cut in cuts(whole):
        kept, _, torn = whole[:cut].rpartition(b"\n")
        kept = whole[: len(kept) + 1] if b"\n" in whole[:cut] else b""
        log.write_bytes(whole[:cut])
        presence.write_bytes(held)
        aside.unlink(missing_ok=True)
        asyncio.run(reopened())
        found = verify(log)
        assert (found.problems, found.unfinished) == ([], 0), cut
        assert log.read_bytes().startswith(kept), cut
        kinds = [json.loads(line)["kind"] for line in kept.splitlines()]
        assert found.interrupted == kinds.count("intent") - kinds.count("outcome"), cut
        told = [each["torn_bytes"] for each in tail(log, 9) if each["kind"] == "recovered"]
        assert told == ([len(torn)] if torn else []), cut
        assert (aside.read_bytes() if torn else b"") == torn, cut


def test_FI_08_presence_torn_at_any_byte_settles_the_calls_all_the_same(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _WRITER, tmp_path], timeout=30, check=False)
    log = tmp_path / LOG_NAME
    whole = log.read_bytes()
    without_outcomes = b"".join(whole.splitlines(keepends=True)[:2])
    (presence,) = (tmp_path / PRESENCE).glob("*.json")
    held = presence.read_bytes()

    async def reopened() -> None:
        await AuditLog.open(tmp_path, storage=Unsynced()).close()

    for cut in range(0, len(held), 7):
        log.write_bytes(without_outcomes)
        presence.write_bytes(held[:cut])
        asyncio.run(reopened())
        found = verify(log)
        assert (found.problems, found.unfinished, found.interrupted) == ([], 0, 1), cut


_READER = """
import sys
from pathlib import Path
from mas_sandbox.audit.read import follow
records = follow(Path(sys.argv[1]), 1000)
print(next(records)["kind"], flush=True)
sys.stdin.readline()
print(*[next(records)["kind"] for _ in range(600)])
"""


def test_FI_16_a_reader_that_never_reads_on_holds_nobody_up(tmp_path: Path) -> None:
    """The log is the truth, and a forwarder reads it as it can: it misses nothing."""

    async def main() -> None:
        log = AuditLog.open(tmp_path, storage=Unsynced())
        with subprocess.Popen(
            [sys.executable, "-c", _READER, log.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as reader:
            assert reader.stdout is not None
            assert await asyncio.to_thread(reader.stdout.readline) == "start\n"
            reader.send_signal(signal.SIGSTOP)
            async with asyncio.timeout(20):
                for number in range(300):
                    await both(log, f"c{number}")
            reader.send_signal(signal.SIGCONT)
            said, _ = await asyncio.to_thread(reader.communicate, "go on\n", 20)
            assert said.split() == ["intent", "outcome"] * 300
        await log.close()

    asyncio.run(main())
    assert verify(tmp_path / LOG_NAME).problems == []


async def both(log: AuditLog, name: str) -> None:
    decision = {"action": "allow", "rule": "r", "reason": "x"}
    await log.intent(
        call_id=name, principal="p", sandbox_id="", tool="t", args={}, decision=decision, trace={}
    )
    await log.outcome(
        call_id=name,
        status="ok",
        code="",
        exit_code=0,
        cpu_ms=0,
        wall_ms=0,
        isolation="none",
        enforced=[],
    )
