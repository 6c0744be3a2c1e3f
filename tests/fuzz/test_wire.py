"""What crosses the channel, in both directions, from an end that means harm."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import strategies as st

from fuzz.engine import JSON, PLACES, corpus, cuts, fuzz, inputs
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.frames import (
    CONNECTION_KINDS,
    FROM_GUEST,
    FROM_HOST,
    MAX_PAYLOAD,
    FrameParser,
    Kind,
    ProtocolError,
    encode,
)
from mas_sandbox.wire.messages import (
    FILE_REASONS,
    GUEST_CODES,
    LIMITS,
    MAX_MESSAGE_CHARS,
    Call,
    Hello,
    Result,
    Welcome,
)
from mas_sandbox.wire.process import Process

Frame = tuple[int, int, bytes]
SIDES = st.sampled_from([FROM_GUEST, FROM_HOST])
MESSAGES: dict[str, Any] = {
    "hello": Hello, "welcome": Welcome, "call": Call, "result": Result, "process": Process,
}  # fmt: skip


def fed(pieces: list[bytes], accepted: frozenset[Kind]) -> tuple[list[Frame], bool]:
    """The frames, and whether a rule was broken."""
    parser = FrameParser(accepted)
    frames: list[Frame] = []
    try:
        for piece in pieces:
            for kind, stream, data in parser.feed(piece):
                frames.append((int(kind), stream, data))
    except ProtocolError:
        return frames, True
    return frames, False


def expected(data: bytes, accepted: frozenset[Kind]) -> tuple[list[Frame], bool]:
    """The same by the words of wire/frames.py, one frame at a time."""
    frames: list[Frame] = []
    while len(data) >= 9:
        length, kind, stream = struct.unpack(">IBI", data[:9])
        known = kind in {int(each) for each in accepted}
        if (
            not known
            or length > 1 << 20
            or (stream == 0) != (kind in {*map(int, CONNECTION_KINDS)})
        ):
            return frames, True
        if len(data) < 9 + length:
            break
        frames.append((kind, stream, data[9 : 9 + length]))
        data = data[9 + length :]
    return frames, False


@fuzz(150, data=inputs("frames"), places=PLACES, accepted=SIDES)
def test_frames_are_the_same_however_they_arrive(
    data: bytes, places: list[int], accepted: frozenset[Kind]
) -> None:
    assert fed(cuts(data, places), accepted) == expected(data, accepted)


@fuzz(
    100,
    frames=st.lists(
        st.tuples(
            st.sampled_from(sorted(FROM_GUEST)), st.integers(1, 2**32 - 1), st.binary(max_size=64)
        ),
        max_size=6,
    ),
    places=PLACES,
)
def test_frames_come_back(frames: list[tuple[Kind, int, bytes]], places: list[int]) -> None:
    whole = [(kind, 0 if kind in CONNECTION_KINDS else n, data) for kind, n, data in frames]
    sent = b"".join(encode(*frame) for frame in whole)
    assert fed(cuts(sent, places), FROM_GUEST) == (whole, False)


@fuzz(40, length=st.integers(MAX_PAYLOAD + 1, 2**32 - 1), kind=st.sampled_from(sorted(FROM_GUEST)))
def test_a_length_over_the_bound_is_refused_by_its_header(length: int, kind: Kind) -> None:
    stream = 0 if kind in CONNECTION_KINDS else 1
    assert fed([struct.pack(">IBI", length, kind, stream)], FROM_GUEST) == ([], True)


def fields(message: Any) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


@pytest.mark.parametrize("name", MESSAGES)
@fuzz(80, data=st.data())
def test_a_message_is_refused_or_says_the_same_again(name: str, data: st.DataObject) -> None:
    kind = MESSAGES[name]
    said = data.draw(inputs(f"messages/{name}"))
    try:
        message = kind.parse(said)
    except ProtocolError:
        return
    assert fields(kind.parse(message.encode())) == fields(message)
    _within_bounds(message)


@pytest.mark.parametrize("name", MESSAGES)
@fuzz(60, data=st.data())
def test_a_message_with_one_other_value_is_refused_or_within_bounds(
    name: str, data: st.DataObject
) -> None:
    said = strict_json.loads(corpus(f"messages/{name}")[0])
    said[data.draw(st.sampled_from(sorted(said)))] = data.draw(JSON)
    try:
        _within_bounds(MESSAGES[name].parse(strict_json.dumps(said)))
    except ProtocolError:
        return


def _within_bounds(message: Any) -> None:
    for name in message.__slots__:
        value = getattr(message, name)
        assert type(value) is not int or 0 <= value < 2**63, name
    match message:
        case Hello():
            assert all(type(word) is str for word in (*message.tools, *message.controls))
            assert len(message.python) <= 64
        case Welcome():
            assert message.limits.keys() <= set(LIMITS)
            assert all(value > 0 for value in message.limits.values())
            assert all(
                path.startswith("/") and mode in ("ro", "rw") for path, mode in message.mounts
            )
        case Call() | Process():
            assert all(
                path.startswith("/") and mode in ("ro", "rw") for path, mode in message.paths
            )
            assert all(type(value) is str for value in message.env.values())
        case Result():
            assert message.exit_code <= 255
            assert message.code in GUEST_CODES | {""}
            assert message.reason in FILE_REASONS
            assert len(message.message) <= MAX_MESSAGE_CHARS


class Repeated(Exception):
    pass


def lenient(data: bytes) -> Any:
    """What the standard library makes of it, less what strict_json says that it refuses."""

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(items)) != len(items):
            raise Repeated
        return dict(items)

    value = json.loads(data.decode("utf-8"), object_pairs_hook=pairs, parse_constant=_no_constant)
    json.dumps(value, allow_nan=False)  # ValueError for what became infinite
    json.dumps(value, ensure_ascii=False).encode()  # and for a lone surrogate
    return value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


@fuzz(250, data=inputs("json"))
def test_strict_json_reads_what_the_standard_library_reads_and_no_more(data: bytes) -> None:
    deep = max_depth(data) > strict_json.MAX_DEPTH
    try:
        wanted: tuple[Any, ...] = (lenient(data),)
    except (ValueError, RecursionError, Repeated):
        wanted = ()
    try:
        found: tuple[Any, ...] = (strict_json.loads(data),)
    except ValueError:
        found = ()
    if not deep:
        assert repr(found) == repr(wanted)
    else:
        assert found == () or repr(found) == repr(wanted)


def max_depth(data: bytes) -> int:
    depth = most = 0
    for byte in data:
        depth += (byte in b"[{") - (byte in b"]}")
        most = max(most, depth)
    return most


@fuzz(80, value=JSON)
def test_what_strict_json_writes_it_reads_and_so_does_everyone(value: Any) -> None:
    written = strict_json.dumps(value)
    assert written.isascii()
    assert repr(strict_json.loads(written)) == repr(json.loads(written)) == repr(value)


@fuzz(30, depth=st.integers(65, 300_000), opening=st.sampled_from([b"[", b'{"a":', b'[{"a":']))
def test_depth_is_refused_before_it_is_walked(depth: int, opening: bytes) -> None:
    with pytest.raises(ValueError, match=r"deep|at most"):
        strict_json.loads(opening * depth)
