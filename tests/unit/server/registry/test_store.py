"""Records of sandboxes: what a file holds, what is refused, what is forgotten (SS-06)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.server.registry import store as module
from mas_sandbox.server.registry.record import (
    Query,
    Record,
    State,
    cursor_of,
    parse_cursor,
)
from mas_sandbox.server.registry.store import FILE_NAME, Store
from mas_sandbox.wire.errors import ErrorCode, SandboxError

NOW = time.time_ns() // 1_000_000
ALL = tuple(State)


def record(name: str = "sb_1", principal: str = "alice", **changes: Any) -> Record:
    made = Record(
        id=name,
        principal=principal,
        instance="one",
        state=State.RUNNING,
        created_ms=NOW,
        changed_ms=NOW,
        reason="",
        runtime="jail",
        isolation="process",
        enforced=("cpu", "env"),
        idle_timeout_s=60.0,
        timeout_s=None,
        on_timeout="kill",
        expires_ms=None,
        metadata={"run": "r-1"},
    )
    return replace(made, **changes)


def store(directory: Path, instance: str = "one", alive: tuple[str, ...] = ("one",)) -> Store:
    return Store(directory, instance, alive.__contains__)


def with_store(
    directory: Path, work: Callable[[Store], Coroutine[Any, Any, Any]], **options: Any
) -> Any:
    async def main() -> Any:
        opened = store(directory, **options)
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(main())


def put(*records: Record) -> Callable[[Store], Coroutine[Any, Any, None]]:
    async def work(opened: Store) -> None:
        for each in records:
            await opened.put(each)

    return work


def refusal(directory: Path) -> SandboxError:
    opened = store(directory)
    with pytest.raises(SandboxError) as refused:
        opened.open()
    asyncio.run(opened.close())
    return refused.value


def test_a_record_is_found_again_by_its_owner_alone(tmp_path: Path) -> None:
    with_store(tmp_path, put(record()))
    assert with_store(tmp_path, lambda opened: opened.find("alice", "sb_1")) == record()
    assert with_store(tmp_path, lambda opened: opened.find("bob", "sb_1")) is None
    assert with_store(tmp_path, lambda opened: opened.find("alice", "sb_2")) is None


def test_the_files_are_the_daemons_alone(tmp_path: Path) -> None:
    async def modes(opened: Store) -> list[int]:
        await opened.put(record())
        return [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(FILE_NAME + "*")]

    previous = os.umask(0)
    try:
        assert with_store(tmp_path, modes) == [0o600] * 3
    finally:
        os.umask(previous)


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "elsewhere")
    assert refusal(tmp_path).code is ErrorCode.INTERNAL
    assert (tmp_path / "elsewhere").read_bytes() == b""


def test_pages_hold_each_once_newest_first_while_others_come_and_go(tmp_path: Path) -> None:
    async def main(opened: Store) -> list[str]:
        for number in range(7):
            await opened.put(record(f"sb_{number}", created_ms=NOW + number // 2))
        await opened.put(record("sb_foreign", "bob"))
        query = Query("alice", ALL, {}, 3)
        names: list[str] = []
        while found := await opened.page(query):
            names += [each.id for each in found]
            await opened.put(record(f"sb_new{len(names)}", created_ms=NOW + 100))
            query = replace(query, after=parse_cursor(cursor_of(found[-1])))
        return names

    names = [f"sb_{number}" for number in (6, 5, 4, 3, 2, 1, 0)]
    assert with_store(tmp_path, main) == names


def test_metadata_and_states_filter(tmp_path: Path) -> None:
    odd = {"run": "r-2", 'a"b.c': "x'y"}

    async def main(opened: Store) -> list[list[str]]:
        await put(record(), record("sb_2", metadata=odd, state=State.ENDED))(opened)
        asked = [
            ({"run": "r-1"}, ALL),
            (odd, ALL),
            ({"run": "r-2", "no": "such"}, ALL),
            ({}, (State.ENDED, State.PAUSED)),
        ]
        return [
            [each.id for each in await opened.page(Query("alice", states, metadata, 9))]
            for metadata, states in asked
        ]

    assert with_store(tmp_path, main) == [["sb_1"], ["sb_2"], [], ["sb_2"]]


@pytest.mark.parametrize("cursor", ["", "x", "eyJ9", "WzEsMl0", "WyJhIiwiYiJd", "é", "W" * 9000])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    with pytest.raises(SandboxError) as refused:
        parse_cursor(cursor)
    assert refused.value.code is ErrorCode.INVALID_REQUEST


def test_a_sandbox_whose_daemon_is_dead_is_interrupted_and_a_living_ones_is_not(
    tmp_path: Path,
) -> None:
    with_store(tmp_path, put(record(), record("sb_2", state=State.ENDED, reason="deleted")))
    options = {"instance": "two", "alive": ("one", "two")}
    alive = with_store(tmp_path, lambda opened: opened.find("alice", "sb_1"), **options)
    assert alive.state is State.RUNNING
    options["alive"] = ("two",)
    dead = with_store(tmp_path, lambda opened: opened.find("alice", "sb_1"), **options)
    assert (dead.state, "daemon" in dead.reason) == (State.INTERRUPTED, True)
    ended = with_store(tmp_path, lambda opened: opened.find("alice", "sb_2"), **options)
    assert (ended.state, ended.reason) == (State.ENDED, "deleted")


def test_a_daemon_that_dies_later_is_noticed_by_the_next_who_looks(tmp_path: Path) -> None:
    with_store(tmp_path, put(record()))
    living = {"one", "two"}

    async def main() -> list[str]:
        other = Store(tmp_path, "two", living.__contains__)
        states = []
        for looking in (other.find("alice", "sb_1"), other.find("alice", "sb_1")):
            found = await looking
            assert found is not None
            states.append(str(found.state))
            living.discard("one")
        (listed,) = await other.page(Query("alice", (State.INTERRUPTED,), {}, 9))
        await other.close()
        return [*states, str(listed.state)]

    assert asyncio.run(main()) == ["running", "interrupted", "interrupted"]


def test_what_has_ended_is_forgotten_after_a_day_or_a_thousand_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KEPT_ROWS", 3)
    old = NOW - module.KEPT_S * 1000 - 60_000

    async def main(opened: Store) -> list[str]:
        await opened.put(record("sb_living", changed_ms=old))
        await opened.put(record("sb_bob", "bob", state=State.ENDED))
        await opened.put(record("sb_old", state=State.ENDED, changed_ms=old))
        for number in range(5):
            each = record(f"sb_{number}", state=State.ENDED, changed_ms=NOW + number)
            await opened.put(each)
        assert await opened.find("bob", "sb_bob") is not None
        return sorted(each.id for each in await opened.page(Query("alice", ALL, {}, 99)))

    assert with_store(tmp_path, main) == ["sb_2", "sb_3", "sb_4", "sb_living"]


def test_ss_06_a_flipped_byte_is_noticed_wherever_it_is(tmp_path: Path) -> None:
    with_store(tmp_path, put(*(record(f"sb_{number}") for number in range(5))))
    path = tmp_path / FILE_NAME
    whole = path.read_bytes()
    needles = [b'"run": "r-1"', b"running", b"alice", b"sb_3", b"process", b"SQLite format 3"]
    for needle in needles:
        at = whole.index(needle) + 1
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        refused = refusal(tmp_path)
        assert refused.code is ErrorCode.INTERNAL, needle
        assert "move the file aside" in refused.message
    path.write_bytes(whole)
    assert with_store(tmp_path, lambda opened: opened.find("alice", "sb_3")) is not None


def test_ss_06_a_cut_wal_leaves_what_was_committed_before(tmp_path: Path) -> None:
    async def crash(opened: Store) -> bytes:
        await opened.put(record("sb_1"))
        await opened.put(record("sb_2"))
        for suffix in ("", "-wal"):
            (tmp_path / "copy").mkdir(exist_ok=True)
            source = tmp_path / (FILE_NAME + suffix)
            (tmp_path / "copy" / source.name).write_bytes(source.read_bytes())
        return b""

    with_store(tmp_path, crash)
    wal = tmp_path / "copy" / (FILE_NAME + "-wal")
    wal.write_bytes(wal.read_bytes()[:-100])
    found = with_store(tmp_path / "copy", lambda opened: opened.page(Query("alice", ALL, {}, 9)))
    assert [each.id for each in found] == ["sb_1"]


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("PRAGMA user_version = 99", "schema 99"),
        ("PRAGMA application_id = 7", "something else"),
        ("DROP TABLE sandboxes", "no such table"),
    ],
)
def test_ss_06_a_file_of_another_version_or_another_program_is_refused(
    tmp_path: Path, statement: str, words: str
) -> None:
    with_store(tmp_path, put(record()))
    database = sqlite3.connect(tmp_path / FILE_NAME)
    database.execute(statement)
    database.commit()
    database.close()
    assert words in refusal(tmp_path).message


def test_two_daemons_may_share_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        one = store(tmp_path, "one", ("one", "two"))
        two = store(tmp_path, "two", ("one", "two"))
        await asyncio.gather(
            *(one.put(record(f"sb_one{number}")) for number in range(50)),
            *(two.put(record(f"sb_two{number}", instance="two")) for number in range(50)),
        )
        assert len(await one.page(Query("alice", ALL, {}, 1000))) == 100
        await one.close()
        assert await two.find("alice", "sb_one7") is not None
        await two.close()

    asyncio.run(main())
