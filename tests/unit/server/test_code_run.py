"""What waits of a run to be taken, and who waits for that."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from mas_sandbox.server.live.code_marks import Budget
from mas_sandbox.server.live.code_run import MAX_PENDING, Ending, Run, Wanted
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

LATE = SandboxError(ErrorCode.TIMEOUT, "late")


def full() -> tuple[Run, Budget]:
    """One that has told as much as may wait."""
    budget = Budget()
    run = Run("ctx_1", Wanted("1"), budget)
    run.begin(1)
    run.output("stdout", b"x" * (MAX_PENDING + 1))
    return run, budget


@pytest.mark.parametrize(
    "release", [Run.leave, Run.hurry, Run.flush], ids=["left", "hurried", "written"]
)
async def test_room_is_waited_for_only_while_somebody_reads_what_is_still_written(
    release: Callable[[Run], None],
) -> None:
    run, _ = full()
    room = asyncio.create_task(run.room(asyncio.get_running_loop().create_future()))
    await asyncio.sleep(0)
    assert not room.done()
    release(run)
    async with asyncio.timeout(5):
        await room


async def test_room_is_there_when_it_was_read_and_when_the_kernel_is_gone() -> None:
    run, budget = full()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    room = asyncio.create_task(run.room(ended))
    assert await run.take() == ("start", {"context_id": "ctx_1", "execution": 1})
    await asyncio.sleep(0)
    assert not room.done()
    await run.take()
    await room
    assert budget.held == 0
    run, _ = full()
    ended.set_result(None)
    await run.room(ended)


async def test_little_output_is_joined_and_kinds_are_not() -> None:
    run = Run("ctx_1", Wanted("1"), Budget())
    for kind, data in (
        ("stdout", b"a\xc3"),
        ("stderr", b"e"),
        ("stdout", b"\xa9"),
        ("stdout", b"b"),
    ):
        run.output(kind, data)
    run.output("stdout", b"\xff\xc3")
    run.flush()
    run.finish(Ending("ok"))
    told = []
    while (taken := await run.take()) is not None:
        told.append((taken[0], taken[1].get("text")))
    assert told == [
        ("stdout", "a"),
        ("stderr", "e"),
        ("stdout", "\u00e9b\ufffd\ufffd"),
        ("end", None),
    ]
    assert run.done_with


async def test_what_nobody_hears_is_not_kept_and_the_budget_is_given_back() -> None:
    run, budget = full()
    run.tell("result", {}, 1000)
    assert budget.held > MAX_PENDING
    run.leave()
    run.output("stdout", b"x" * 1000)
    assert budget.held == 0
    assert not run.done_with
    run.finish(Ending("lost", LATE))
    assert run.done_with
    run.finish(Ending("ok"))
    assert run.ending == Ending("lost", LATE)


async def test_one_that_is_hurried_loses_output_and_nothing_else() -> None:
    run, _ = full()
    run.hurry()
    run.output("stdout", b"lost")
    run.tell("exception", {"name": "E"})
    run.finish(Ending("interrupted", LATE))
    kinds = []
    while (taken := await run.take()) is not None:
        kinds.append(taken[0])
    assert kinds == ["start", "stdout", "exception", "end"]
