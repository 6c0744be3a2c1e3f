"""Output is kept up to a bound, and read from any place in it."""

from __future__ import annotations

import pytest

from mas_sandbox.server.live.ring import Ring
from mas_sandbox.wire.frames import CHUNK


def read(ring: Ring, position: int) -> list[tuple[str, bytes]]:
    found = []
    while position < ring.end:
        kind, data = ring.after(position)
        found.append((kind, data))
        position += len(data)
    return found


def test_output_is_read_in_the_order_in_which_it_came() -> None:
    ring = Ring()
    for kind, data in (("stdout", b"a"), ("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")):
        ring.append(kind, data)
    assert read(ring, 0) == [("stdout", b"ab"), ("stderr", b"c"), ("stdout", b"d")]
    assert read(ring, 1) == [("stdout", b"b"), ("stderr", b"c"), ("stdout", b"d")]
    assert read(ring, 4) == []


def test_what_was_read_is_not_changed_by_what_comes_after() -> None:
    ring = Ring()
    ring.append("stdout", b"a")
    ring.append("stdout", b"b")
    found = ring.after(0)
    ring.append("stdout", b"c")
    assert found == ("stdout", b"ab")
    assert ring.after(2) == ("stdout", b"c")


@pytest.mark.parametrize("size", [1, 1000, CHUNK, 5 * CHUNK])
def test_it_never_holds_more_than_it_may_and_always_the_newest(size: int) -> None:
    ring, capacity = Ring(), 4 * CHUNK
    for number in range(3 * capacity // size + 3):
        ring.append("stdout", bytes([number % 251]) * size)
        floor = ring.floor(capacity)
        ring.trim(capacity)
        assert floor == ring.start
        assert len(ring) <= capacity
    assert b"".join(data for _, data in read(ring, ring.start)) != b""
    assert len(ring) > capacity - 2 * CHUNK


def test_little_bits_on_two_pipes_are_bounded_in_number() -> None:
    ring = Ring()
    for number in range(20_000):
        ring.append("stdout" if number % 2 else "stderr", b"x")
        ring.trim(1 << 20)
    assert len(ring._pieces) <= 4096
    assert ring.end - ring.start == len(ring._pieces)
