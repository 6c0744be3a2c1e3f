"""One account of what is polled, kept with real pipes."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from mas_sandbox.guest.poller import Poller


class Pipes:
    """Pipes with a byte in each, and the reading ends that were served, in order."""

    def __init__(self) -> None:
        self.poller = Poller()
        self.served: list[int] = []
        self._open = ExitStack()

    def ready(self) -> int:
        """The reading end of a new one."""
        reading, writing = os.pipe()
        self._open.callback(os.close, writing)
        os.write(writing, b"x")
        return reading

    def turn(self) -> list[int]:
        """What was served in one turn of the loop."""
        self.served.clear()
        self.poller.serve(self.poller.wait(0))
        return self.served

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    made = Pipes()
    yield made
    made.close()


def test_what_is_watched_is_served_until_it_is_forgotten(pipes: Pipes) -> None:
    one, other = pipes.ready(), pipes.ready()
    for each in (one, other):
        pipes.poller.watch(each, select.POLLIN, pipes.served.append)
    assert pipes.turn() == [one, other]
    pipes.poller.watch(one, 0, pipes.served.append)
    assert pipes.turn() == [other]
    pipes.poller.forget(other)
    pipes.poller.forget(other)  # which need not be polled
    assert pipes.turn() == []
    for each in (one, other):
        pipes.poller.close(each)


def test_it_is_polled_for_the_last_events_and_served_by_the_last_owner(pipes: Pipes) -> None:
    one = pipes.ready()
    pipes.poller.watch(one, select.POLLPRI, pipes.served.append)
    assert pipes.turn() == []
    pipes.poller.watch(one, select.POLLIN, pipes.served.append)
    assert pipes.turn() == [one]
    pipes.poller.watch(one, select.POLLIN, lambda number: pipes.served.append(-number))
    assert pipes.turn() == [-one]
    pipes.poller.close(one)


def test_a_number_that_became_anothers_is_polled_for_its_new_owner(pipes: Pipes) -> None:
    one = pipes.ready()
    pipes.poller.watch(one, select.POLLIN, pipes.served.append)
    pipes.poller.close(one)
    again = pipes.ready()
    assert again == one
    assert pipes.turn() == []
    pipes.poller.watch(again, select.POLLIN, lambda number: pipes.served.append(-number))
    assert pipes.turn() == [-again]
    pipes.poller.close(again)


def test_who_got_the_number_within_the_turn_is_not_served_in_it(pipes: Pipes) -> None:
    first, second = pipes.ready(), pipes.ready()

    def replace(number: int) -> None:
        pipes.served.append(number)
        pipes.poller.forget(first)
        pipes.poller.close(second)
        assert pipes.ready() == second
        pipes.poller.watch(second, select.POLLIN, pipes.served.append)

    pipes.poller.watch(first, select.POLLIN, replace)
    pipes.poller.watch(second, select.POLLIN, pipes.served.append)
    assert pipes.turn() == [first]
    assert pipes.turn() == [second]
    pipes.poller.close(first)
    pipes.poller.close(second)
