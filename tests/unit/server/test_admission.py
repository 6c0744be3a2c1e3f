"""Who runs, who waits, who is turned away."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress

import pytest

from mas_sandbox.server.admission import Admission, Overloaded
from mas_sandbox.wire.errors import ErrorCode


class Desk:
    """Callers at an Admission, each of which stays until it is told to go."""

    def __init__(self, max_running: int, max_queue: int) -> None:
        self.admission = Admission(max_running, max_queue)
        self.order: list[str] = []
        self.leave: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, principal: str = "p", limit: int | None = None) -> None:
        self.leave[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, principal, limit))
        await settle()

    async def go(self, name: str) -> None:
        self.leave[name].set()
        await self.tasks[name]
        await settle()

    async def _stay(self, name: str, principal: str, limit: int | None) -> None:
        async with self.admission.slot(principal, limit):
            self.order.append(name)
            await self.leave[name].wait()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_one_principals_calls_run_in_the_order_they_came() -> None:
    async def main() -> None:
        desk = Desk(1, 10)
        for name in "abcd":
            await desk.come(name)
        for name in "abcd":
            await desk.go(name)
        assert desk.order == list("abcd")

    asyncio.run(main())


def test_no_more_run_than_may_and_the_rest_wait() -> None:
    async def main() -> None:
        desk = Desk(2, 10)
        for name in "abc":
            await desk.come(name)
        assert desk.order == ["a", "b"]
        assert (desk.admission.running, desk.admission.waiting) == (2, 1)
        for name in "abc":
            await desk.go(name)
        assert (desk.admission.running, desk.admission.waiting) == (0, 0)

    asyncio.run(main())


def test_beyond_the_queue_a_call_is_told_when_to_come_back() -> None:
    async def main() -> None:
        desk = Desk(1, 1)
        await desk.come("a")
        await desk.come("b")
        await desk.come("c")
        error = desk.tasks["c"].exception()
        assert isinstance(error, Overloaded)
        assert error.code is ErrorCode.OVERLOADED
        assert error.retry_after >= 1
        for name in "ab":
            await desk.go(name)

    asyncio.run(main())


def test_without_a_queue_a_full_house_turns_away() -> None:
    async def main() -> None:
        desk = Desk(1, 0)
        await desk.come("a")
        with pytest.raises(Overloaded):
            async with desk.admission.slot("other", None):
                raise AssertionError("admitted")
        await desk.go("a")

    asyncio.run(main())


def test_a_principals_own_limit_leaves_room_for_others() -> None:
    async def main() -> None:
        desk = Desk(4, 10)
        await desk.come("a1", "a", limit=1)
        await desk.come("a2", "a", limit=1)
        await desk.come("b1", "b")
        assert desk.order == ["a1", "b1"]
        await desk.go("a1")
        assert desk.order == ["a1", "b1", "a2"]
        await desk.go("a2")
        await desk.go("b1")

    asyncio.run(main())


def test_principals_take_turns() -> None:
    async def main() -> None:
        desk = Desk(1, 10)
        await desk.come("a0", "a")
        for name in ("a1", "a2", "a3"):
            await desk.come(name, "a")
        await desk.come("b1", "b")
        for name in ("a0", "a1", "b1", "a2", "a3"):
            await desk.go(name)
        assert desk.order == ["a0", "a1", "b1", "a2", "a3"]

    asyncio.run(main())


def test_who_fills_the_queue_gives_way_to_another() -> None:
    async def main() -> None:
        desk = Desk(1, 3)
        await desk.come("a0", "a")
        for name in ("a1", "a2", "a3"):
            await desk.come(name, "a")
        await desk.come("b1", "b")
        assert isinstance(desk.tasks["a3"].exception(), Overloaded)
        assert desk.admission.waiting == 3
        await desk.come("a4", "a")
        assert isinstance(desk.tasks["a4"].exception(), Overloaded)
        for name in ("a0", "a1", "b1", "a2"):
            await desk.go(name)

    asyncio.run(main())


def test_a_cancelled_waiter_leaves_nothing_and_its_place_goes_on() -> None:
    async def main() -> None:
        desk = Desk(1, 10)
        for name in "abc":
            await desk.come(name)
        desk.tasks["b"].cancel()
        await settle()
        assert desk.admission.waiting == 1
        await desk.go("a")
        assert desk.order == ["a", "c"]
        await desk.go("c")

    asyncio.run(main())


def test_a_call_cancelled_in_its_turn_hands_the_place_on() -> None:
    async def main() -> None:
        desk = Desk(1, 10)
        async with desk.admission.slot("p", None):
            await desk.come("b")
            await desk.come("c")
        desk.tasks["b"].cancel()  # its turn has come, and it has not run since
        await settle()
        assert desk.order == ["c"]
        await desk.go("c")
        assert desk.admission.running == 0

    asyncio.run(main())


def test_the_count_is_exact_after_many_cancelled_and_finished_calls() -> None:
    async def main() -> None:
        admission = Admission(3, 50)
        chance = random.Random(7)
        most = 0

        async def call(principal: str) -> None:
            nonlocal most
            with suppress(Overloaded):
                async with admission.slot(principal, chance.choice([None, 1, 2])):
                    most = max(most, admission.running)
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)

        tasks = [asyncio.create_task(call(chance.choice("abc"))) for _ in range(400)]
        for _ in range(300):
            chance.choice(tasks).cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.running, admission.waiting) == (0, 0)
        assert most <= 3

    asyncio.run(main())
