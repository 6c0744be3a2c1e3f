"""A log of many files is one chain, whoever turns to the next and wherever it dies."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.audit.files import put_away
from mas_sandbox.audit.log import LOG_NAME, AuditLog
from mas_sandbox.audit.read import follow, tail
from mas_sandbox.audit.storage import Storage
from mas_sandbox.audit.verify import verify
from mas_sandbox.wire.errors import SandboxError

SMALL = 4000
"""Bytes: some eight records."""


class Unsynced(Storage):
    def sync(self, descriptor: int) -> None:
        """Nothing: these tests end no machine."""


def opened(directory: Path, most: int = SMALL) -> AuditLog:
    return AuditLog.open(directory, max_bytes=most, storage=Unsynced())


async def intend(log: AuditLog, name: str) -> None:
    decision = {"action": "allow", "rule": "r", "reason": "x"}
    await log.intent(
        call_id=name, principal="p", sandbox_id="", tool="t", args={}, decision=decision, trace={}
    )


async def conclude(log: AuditLog, name: str) -> None:
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


async def calls(log: AuditLog, *names: str) -> None:
    for name in names:
        await intend(log, name)
        await conclude(log, name)


def write_calls(directory: Path, *names: str, most: int = SMALL) -> Path:
    async def main() -> None:
        log = opened(directory, most)
        await calls(log, *names)
        await log.close()

    asyncio.run(main())
    return directory / LOG_NAME


def many(letter: str, count: int = 20) -> list[str]:
    return [f"{letter}{number}" for number in range(count)]


def test_a_full_file_is_put_away_and_the_chain_goes_on(tmp_path: Path) -> None:
    log = write_calls(tmp_path, *many("a"))
    write_calls(tmp_path, *many("b"))
    before = put_away(log)
    assert len(before) >= 3
    for file in [*before, log][1:]:
        assert json.loads(file.read_bytes().splitlines()[0])["kind"] == "continued"
    for file in before:
        assert SMALL <= file.stat().st_size < SMALL + 2000
        assert json.loads(file.read_bytes().splitlines()[-1])["kind"] == "rotated"
    found = verify(log)
    assert (found.problems, found.calls, found.unfinished, found.first) == ([], 40, 0, 1)
    assert found.records == found.last


def test_daemons_that_share_a_log_turn_to_the_next_file_together(tmp_path: Path) -> None:
    async def main() -> None:
        one, other = opened(tmp_path), opened(tmp_path)
        await asyncio.gather(calls(one, *many("a")), calls(other, *many("b")))
        await one.close()
        await calls(other, "last")
        await other.close()

    asyncio.run(main())
    found = verify(tmp_path / LOG_NAME)
    assert len(put_away(tmp_path / LOG_NAME)) >= 3
    assert (found.problems, found.calls, found.unfinished) == ([], 41, 0)


DYING = textwrap.dedent(
    """
    import os, sys
    sys.path.insert(0, sys.argv[3])
    from pathlib import Path
    from mas_sandbox.audit import journal
    from test_rotation import write_calls, many

    def die(*_):
        os._exit(9)

    if sys.argv[2] == "renaming":
        Path.rename = die
    else:
        journal.Journal._opened = (lambda opened: lambda self:
            opened(self) if not hasattr(self, "_descriptor") else die())(journal.Journal._opened)
    write_calls(Path(sys.argv[1]), *many("a"))
    """
)


@pytest.mark.parametrize("before", ["renaming", "beginning the next"])
def test_a_daemon_that_dies_between_two_files_leaves_one_chain(tmp_path: Path, before: str) -> None:
    program = [sys.executable, "-c", DYING, str(tmp_path), before, str(Path(__file__).parent)]
    assert subprocess.run(program, check=False, timeout=60).returncode == 9
    log = tmp_path / LOG_NAME
    assert log.exists() == (before == "renaming")
    write_calls(tmp_path, "b")
    assert len(put_away(log)) == 1
    found = verify(log)
    assert (found.problems, found.unfinished, found.interrupted) == ([], 0, 1)
    assert found.records == found.last


def test_a_call_left_open_files_ago_is_interrupted(tmp_path: Path) -> None:
    async def die() -> None:
        log = opened(tmp_path)
        await intend(log, "left")
        await calls(log, *many("a"))
        log._presence.leave(finished=False)  # as a kill does: nothing else is written

    asyncio.run(die())
    assert len(put_away(tmp_path / LOG_NAME)) >= 2
    found = verify(write_calls(tmp_path, "next"))
    assert (found.problems, found.unfinished, found.interrupted) == ([], 0, 1)


def test_tail_and_follow_read_across_files(tmp_path: Path) -> None:
    log = write_calls(tmp_path, *many("a"))
    assert [record["seq"] for record in tail(log, 1000)] == list(range(1, verify(log).last + 1))
    coming = follow(log, 1)
    seen = [next(coming)["seq"]]
    files = len(put_away(log))
    write_calls(tmp_path, *many("b"))
    assert len(put_away(log)) >= files + 2
    last = verify(log).last
    while seen[-1] < last:
        seen.append(next(coming)["seq"])
    coming.close()
    assert seen == list(range(seen[0], last + 1))


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def damage(log: Path, how: str) -> None:
    before = put_away(log)
    match how:
        case "a record changed":
            content = before[1].read_bytes()
            before[1].write_bytes(content.replace(b'"principal":"p"', b'"principal":"q"', 1))
        case "a file gone":
            before[1].unlink()
        case "a file cut":
            before[1].write_bytes(b"".join(lines(before[1])[:-2]))
        case "two exchanged":
            first, second = before[0].read_bytes(), before[1].read_bytes()
            before[0].write_bytes(second)
            before[1].write_bytes(first)
        case "the oldest gone":
            before[0].unlink()


@pytest.mark.parametrize(
    "how", ["a record changed", "a file gone", "a file cut", "two exchanged", "the oldest gone"]
)
def test_damage_in_a_file_that_was_put_away_is_found(tmp_path: Path, how: str) -> None:
    log = write_calls(tmp_path, *many("a"))
    damage(log, how)
    problems = verify(log).problems
    assert problems
    assert problems[0].file.startswith(LOG_NAME)
    found = verify(log, partial=True)
    assert (not found.problems) == (how == "the oldest gone")


def test_the_oldest_files_may_be_removed_where_that_is_said(tmp_path: Path) -> None:
    log = write_calls(tmp_path, *many("a"))
    put_away(log)[0].unlink()
    found = verify(write_calls(tmp_path, "b"), partial=True)
    assert found.problems == []
    assert found.first > 1
    assert found.records == found.last - found.first + 1


class NoRoomToTurn(Unsynced):
    """Has no room for the record that ends a file; for others it has."""

    def write(self, descriptor: int, data: bytes) -> None:
        if b'"kind":"rotated"' in data:
            os.write(descriptor, data[:20])
            raise OSError(28, "No space left on device")
        super().write(descriptor, data)


def test_a_file_that_cannot_be_ended_goes_on_growing(tmp_path: Path) -> None:
    async def main() -> None:
        log = AuditLog.open(tmp_path, max_bytes=SMALL, storage=NoRoomToTurn())
        await calls(log, *many("a"))
        await log.close()

    asyncio.run(main())
    found = verify(tmp_path / LOG_NAME)
    assert (found.problems, found.calls, put_away(tmp_path / LOG_NAME)) == ([], 20, [])


def test_a_log_taken_away_after_it_turned_still_refuses_calls(tmp_path: Path) -> None:
    async def main() -> None:
        log = opened(tmp_path)
        await calls(log, *many("a"))
        log.path.rename(tmp_path / "elsewhere")
        with pytest.raises(SandboxError, match="calls are refused until"):
            await intend(log, "b")
        await log.close()

    asyncio.run(main())


def record_of(path: Path, number: int) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(lines(path)[number])
    return found


def test_every_file_names_the_log_it_belongs_to(tmp_path: Path) -> None:
    log = write_calls(tmp_path, *many("a", 40))
    first, *rest = [*put_away(log), log]
    identity = record_of(first, 0)["digest"]
    assert {record_of(file, 0)["log"] for file in rest} == {identity}
    sizes = [file.stat().st_size for file in [first, *rest]]
    offsets = [record_of(file, 0)["offset"] for file in rest]
    assert offsets == [sum(sizes[: number + 1]) for number in range(len(rest))]
