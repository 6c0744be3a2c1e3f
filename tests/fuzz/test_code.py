"""What a kernel says in the midst of what the code in it writes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fuzz.engine import JSON, PLACES, cuts, fuzz, inputs
from mas_sandbox.api.code import CodeEvent
from mas_sandbox.server.live.code_marks import Budget, Marks, Said
from mas_sandbox.server.live.code_words import Ended, Failed, Ready, Told, understood
from mas_sandbox.server.live.events import event
from mas_sandbox.wire import strict_json

MARK = b"\x1e0123456789abcdef0123456789abcdef"
PIECES = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([MARK, MARK[:7], b"\x1e", b"\x1e" * 3, MARK + b"0002.{}", MARK + b"0001+{", MARK + b"zzzz.", MARK + b"ffff.", MARK + b"0000."]),
        st.builds(lambda data, end: MARK + b"%04x" % len(data) + end + data, st.binary(max_size=40), st.sampled_from([b".", b"+"])),
    ),
    max_size=10,
).map(b"".join)  # fmt: skip


def heard(pieces: list[bytes], budget: Budget) -> list[bytes | Said]:
    """Output joined up, and messages."""
    marks, found = Marks(MARK, budget), list[bytes | Said]()
    for piece in pieces:
        for item in marks.feed(piece):
            _put(found, item)
        assert 0 <= budget.held <= sum(map(len, pieces))
    _put(found, marks.close())
    assert budget.held == 0
    return found


def _put(found: list[bytes | Said], item: bytes | Said) -> None:
    if isinstance(item, bytes) and found and isinstance(found[-1], bytes):
        found[-1] += item
    elif item != b"":
        found.append(item)


@fuzz(150, data=PIECES | inputs("kernel-output"), places=PLACES)
def test_output_and_messages_are_told_apart_however_they_arrive(
    data: bytes, places: list[int]
) -> None:
    whole = heard([data], Budget())
    assert heard(cuts(data, places), Budget()) == whole
    output = b"".join(item for item in whole if isinstance(item, bytes))
    assert MARK in data or output == data


@fuzz(60, data=PIECES, limit=st.integers(0, 30))
def test_no_more_is_held_than_the_budget_and_a_piece(data: bytes, limit: int) -> None:
    budget = Budget(limit)
    marks = Marks(MARK, budget)
    for byte in data:
        for _ in marks.feed(bytes((byte,))):
            pass
        assert budget.held <= limit + 4096


def _hold(said: Ready | Failed | Ended | Told) -> None:
    match said:
        case Told(kind="exception" | "result"):
            body = strict_json.loads(strict_json.dumps(said.fields), max_bytes=1 << 26)
            told = CodeEvent.model_validate(body | {"type": said.kind}).root
            assert told.type == said.kind
            assert event(said.kind, dict(said.fields)).body.count(b"\n") == 0
        case Ended():
            assert said.status in ("", "ok", "exception", "interrupted")
            assert type(said.execution) is int
        case Ready():
            assert said.kernel in ("plain", "ipython")
        case Failed():
            assert len(said.message) <= 1024
        case _:
            raise AssertionError(said)


@fuzz(150, payload=inputs("kernel"))
def test_whatever_a_kernel_says_is_something_that_can_be_told(payload: bytes) -> None:
    _hold(understood(Said(payload)))


WORDS = st.fixed_dictionaries(
    {"type": st.sampled_from(["result", "exception", "end", "ready", "failed", "start"])},
    optional={
        "data": st.dictionaries(st.sampled_from(["text/plain", "image/png", "application/json", "a/b+json", "Text/x", ""]), JSON, max_size=3),
        **dict.fromkeys(("main", "name", "value", "traceback", "execution", "status", "kernel", "message"), JSON),
    },
)  # fmt: skip


@fuzz(80, words=WORDS | JSON)
def test_any_json_from_a_kernel_is_something_that_can_be_told(words: Any) -> None:
    _hold(understood(Said(strict_json.dumps(words))))
