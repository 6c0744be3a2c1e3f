"""Idempotency keys on disk: whose they are, what is kept, what is let go, what is refused."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.server.registry import answers as module
from mas_sandbox.server.registry.answers import FILE_NAME, Answers, Found, Standing
from mas_sandbox.wire.errors import ErrorCode, SandboxError

Work = Callable[[Answers], Coroutine[Any, Any, Any]]


def with_answers(
    directory: Path, work: Work, instance: str = "one", alive: tuple[str, ...] = ("one",)
) -> Any:
    async def main() -> Any:
        opened = Answers(directory, instance, alive.__contains__)
        try:
            return await work(opened)
        finally:
            await opened.close()

    return asyncio.run(main())


async def answered(opened: Answers, key: str, answer: str, principal: str = "alice") -> None:
    assert (await opened.begin(principal, key, "f")).standing is Standing.NEW
    await opened.finish(principal, key, answer)


def test_a_key_is_its_principals_and_its_first_requests(tmp_path: Path) -> None:
    async def main(opened: Answers) -> list[Found]:
        await answered(opened, "k", "first")
        asked = [("alice", "f"), ("alice", "other"), ("bob", "other")]
        return [await opened.begin(principal, "k", mark) for principal, mark in asked]

    found = with_answers(tmp_path, main)
    assert found[0] == Found(Standing.DONE, "first")
    assert [each.standing for each in found[1:]] == [Standing.OTHERS, Standing.NEW]
    again = with_answers(tmp_path, lambda opened: opened.begin("alice", "k", "f"), "two")
    assert again == Found(Standing.DONE, "first")


def test_what_was_begun_runs_in_a_living_daemon_and_is_interrupted_in_a_dead_one(
    tmp_path: Path,
) -> None:
    def begin(opened: Answers) -> Coroutine[Any, Any, Found]:
        return opened.begin("alice", "k", "f")

    assert with_answers(tmp_path, begin).standing is Standing.NEW
    assert with_answers(tmp_path, begin, "two", ("one", "two")).standing is Standing.RUNNING
    assert with_answers(tmp_path, begin, "two", ("two",)).standing is Standing.INTERRUPTED
    assert with_answers(tmp_path, begin).standing is Standing.INTERRUPTED  # nobody runs it


def test_what_was_not_done_leaves_the_key_new_and_another_daemons_stays(tmp_path: Path) -> None:
    async def forgotten(opened: Answers) -> Standing:
        await opened.forget("alice", "k")
        return (await opened.begin("alice", "k", "other")).standing

    with_answers(tmp_path, lambda opened: opened.begin("alice", "k", "f"))
    assert with_answers(tmp_path, forgotten, "two", ("one", "two")) is Standing.OTHERS
    assert with_answers(tmp_path, forgotten) is Standing.NEW


def test_a_key_is_forgotten_after_a_day_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_answers(tmp_path, lambda opened: answered(opened, "k", "first"))
    now = time.time_ns()
    day = module.KEPT_S * 1_000_000_000
    for later, standing in ((day - 60_000_000_000, Standing.DONE), (day, Standing.NEW)):
        monkeypatch.setattr(module.time, "time_ns", lambda later=later: now + later)
        found = with_answers(tmp_path, lambda opened: opened.begin("alice", "k", "f"))
        assert found.standing is standing


def test_there_is_room_for_so_many_keys_of_each_and_none_makes_room_for_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_KEYS", 3)

    async def main(opened: Answers) -> list[Found]:
        for number in range(3):
            await answered(opened, str(number), "x")
        asked = [("alice", "3"), ("alice", "0"), ("bob", "3")]
        return [await opened.begin(principal, key, "f") for principal, key in asked]

    full, kept, other = with_answers(tmp_path, main)
    assert (full.standing, kept.standing) == (Standing.NO_ROOM, Standing.DONE)
    assert module.KEPT_S - 60 < full.retry_after_s <= module.KEPT_S
    assert other.standing is Standing.NEW


def test_of_answers_the_large_and_the_oldest_are_let_go_their_keys_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    monkeypatch.setattr(module, "MOST_OF_ONE", 50)

    async def main(opened: Answers) -> list[Standing]:
        await answered(opened, "large", "x" * 51)
        await answered(opened, "bobs", "x" * 50, "bob")
        for number in range(4):
            await answered(opened, str(number), "x" * 40)
        asked = [("alice", key) for key in ("large", "0", "1", "2", "3")] + [("bob", "bobs")]
        return [(await opened.begin(principal, key, "f")).standing for principal, key in asked]

    gone, kept = Standing.LET_GO, Standing.DONE
    assert with_answers(tmp_path, main) == [gone, gone, gone, kept, kept, kept]


def test_a_row_that_was_altered_is_refused(tmp_path: Path) -> None:
    with_answers(tmp_path, lambda opened: answered(opened, "k", "first"))
    with sqlite3.connect(tmp_path / FILE_NAME) as database:
        database.execute("UPDATE answers SET body = 'second'")
    with pytest.raises(SandboxError, match="move the file aside") as refused:
        with_answers(tmp_path, lambda opened: opened.begin("alice", "k", "f"))
    assert refused.value.code is ErrorCode.INTERNAL
