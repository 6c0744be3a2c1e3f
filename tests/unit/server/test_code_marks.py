"""What a kernel says is told from what its code writes, however the bytes come."""

from __future__ import annotations

import random

import pytest

from mas_sandbox.server.live import code_marks
from mas_sandbox.server.live.code_marks import Budget, Marks, Said
from mas_sandbox.server.live.code_words import Begun, Ended, Failed, Ready, Told, understood

MARK = b"\x1e" + b"0123456789abcdef" * 2


def piece(payload: bytes, flag: bytes = b".") -> bytes:
    return b"%b%04x%b%b" % (MARK, len(payload), flag, payload)


def heard(marks: Marks, *pieces: bytes) -> list[bytes]:
    """Output joined, and messages in brackets; `[None]` for one that was dropped."""
    found: list[bytes] = []
    for data in pieces:
        for item in marks.feed(data):
            if isinstance(item, Said):
                found.append(b"[%b]" % (b"None" if item.payload is None else item.payload))
            elif found and not found[-1].startswith(b"["):
                found[-1] += item
            else:
                found.append(item)
    return found


WRITTEN = (
    b"before\x1e01"
    + piece(b"one")
    + piece(b"two, first", b"+")
    + b"in between"
    + piece(b" and second")
    + b"\x1e\x1e0123"
    + piece(b"")
    + b"after"
)
EXPECTED = [b"before\x1e01", b"[one]", b"in between", b"[two, first and second]"]
EXPECTED += [b"\x1e\x1e0123", b"[]", b"after"]


def test_messages_are_found_wherever_the_pieces_are_cut() -> None:
    assert heard(Marks(MARK, Budget()), WRITTEN) == EXPECTED
    for cut in range(len(WRITTEN)):
        assert heard(Marks(MARK, Budget()), WRITTEN[:cut], WRITTEN[cut:]) == EXPECTED
    one_by_one = [bytes([byte]) for byte in WRITTEN]
    assert heard(Marks(MARK, Budget()), *one_by_one) == EXPECTED


def test_output_is_not_held_back_unless_a_mark_may_have_begun() -> None:
    marks = Marks(MARK, Budget())
    assert heard(marks, b"a line\n") == [b"a line\n"]
    assert heard(marks, b"text" + MARK[:9]) == [b"text"]
    assert marks.close() == MARK[:9]


@pytest.mark.parametrize("header", [b"00zz.", b"-001.", b"0x1+.", b"0001x", b"ffff."])
def test_a_mark_of_somebodys_own_making_is_output(header: bytes) -> None:
    written = MARK + header + b"x"
    assert b"".join(heard(Marks(MARK, Budget()), written + piece(b"good"))) == written + b"[good]"


def test_what_is_too_long_is_dropped_and_what_follows_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(code_marks, "MAX_MESSAGE", 100)
    budget = Budget()
    marks = Marks(MARK, budget)
    long = piece(b"x" * 60, b"+") * 50 + piece(b"x")
    assert heard(marks, long, piece(b"next")) == [b"[None]", b"[next]"]
    assert budget.held == 0


def test_all_contexts_of_a_sandbox_hold_no_more_than_their_budget() -> None:
    budget = Budget(limit=1000)
    first, second = Marks(MARK, budget), Marks(MARK, budget)
    heard(first, piece(b"x" * 990, b"+") + piece(b"x" * 10, b"+"))
    assert heard(second, piece(b"y", b"+"), piece(b"y")) == [b"[None]"]
    assert heard(first, piece(b"x")) == [b"[None]"]
    assert budget.held == 0
    assert heard(second, piece(b"y", b"+"), piece(b"y")) == [b"[yy]"]


def test_whatever_comes_it_holds_little() -> None:
    chance = random.Random(5)
    budget = Budget()
    marks = Marks(MARK, budget)
    for _ in range(2000):
        part = chance.choice([MARK, MARK[:5], b"0fff.", b"00", b"+", b"x" * 50, piece(b"{}")])
        heard(marks, part)
        assert len(marks.close()) < 8192
        assert budget.held == 0


@pytest.mark.parametrize(
    ("payload", "meant"),
    [
        (b'{"type":"ready","kernel":"plain"}', Ready("plain")),
        (b'{"type":"begin","execution":7}', Begun(7)),
        (b'{"type":"failed","message":"none"}', Failed("none")),
        (b'{"type":"end","execution":3,"status":"ok"}', Ended(3, "ok")),
        (b'{"type":"end","execution":3}', Ended(3, "")),
        (
            b'{"type":"exception","name":"E","value":"v","traceback":"t","more":1}',
            Told("exception", {"name": "E", "value": "v", "traceback": "t"}, 68),
        ),
        (
            b'{"type":"result","data":{"application/x+json":[1],"image/png":"YQ=="},"main":true}',
            Told(
                "result",
                {"data": {"application/x+json": [1], "image/png": "YQ=="}, "main": True},
                82,
            ),
        ),
    ],
)
def test_what_is_said_is_held_to_its_form(payload: bytes, meant: object) -> None:
    assert understood(Said(payload)) == meant


@pytest.mark.parametrize(
    "payload",
    [
        None,
        b"",
        b"[]",
        b"1",
        b'{"type":"start","execution":1}',
        b'{"type":"ready","kernel":"other"}',
        b'{"type":"ready","kernel":["plain"]}',
        b'{"type":"end","execution":"1","status":"ok"}',
        b'{"type":"end","execution":true}',
        b'{"type":"end","execution":1,"status":"lost"}',
        b'{"type":"result","data":{},"main":true}',
        b'{"type":"result","data":[],"main":true}',
        b'{"type":"result","data":{"text/plain":1},"main":true}',
        b'{"type":"result","data":{"text/plain":"x"},"main":1}',
        b'{"type":"result","data":{"Text Plain":"x"},"main":true}',
        b'{"type":"result","data":{"image/png":"not base64"},"main":true}',
        b'{"type":"result","data":{"text/plain":"\\ud800"},"main":true}',
        b'{"type":"result","data":{"application/json":NaN},"main":true}',
        b'{"type":"result","data":{"application/json":' + b"[" * 70 + b"]" * 70 + b'},"main":true}',
        b'{"type":"exception","name":"E","value":"v"}',
    ],
)
def test_what_makes_no_sense_is_told_as_left_out(payload: bytes | None) -> None:
    said = understood(Said(payload))
    assert isinstance(said, Told)
    assert "left out" in said.fields["data"]["text/plain"]
