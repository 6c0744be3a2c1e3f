"""Frames: cut where they end, refused before their payload is waited for."""

from __future__ import annotations

import tracemalloc

import pytest

from mas_sandbox.wire.frames import (
    CONNECTION_KINDS,
    FROM_GUEST,
    FROM_HOST,
    HEADER,
    MAX_PAYLOAD,
    FrameParser,
    Kind,
    ProtocolError,
    encode,
)


def test_frames_come_out_whole_however_the_bytes_are_cut() -> None:
    frames = [(Kind.PING, 0, b"ping"), (Kind.CALL, 7, b""), (Kind.STDIN, 2**32 - 1, b"x" * 300)]
    data = b"".join(encode(*frame) for frame in frames)
    for size in (1, 2, 9, 13, len(data)):
        parser = FrameParser(FROM_HOST)
        pieces = [data[start : start + size] for start in range(0, len(data), size)]
        assert [frame for piece in pieces for frame in parser.feed(piece)] == frames


@pytest.mark.parametrize("length", [MAX_PAYLOAD + 1, 2**31, 2**32 - 1])
def test_a_length_over_the_bound_is_refused_at_the_header(length: int) -> None:
    tracemalloc.start()
    with pytest.raises(ProtocolError, match=str(length)):
        list(FrameParser(FROM_GUEST).feed(HEADER.pack(length, Kind.STDOUT, 1)))
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_the_largest_payload_passes_and_one_byte_more_cannot_be_encoded() -> None:
    [(_, _, payload)] = FrameParser(FROM_GUEST).feed(encode(Kind.VALUE, 1, bytes(MAX_PAYLOAD)))
    assert len(payload) == MAX_PAYLOAD
    with pytest.raises(ValueError, match="not 1048577"):
        encode(Kind.VALUE, 1, bytes(MAX_PAYLOAD + 1))


def test_kinds_of_the_other_side_and_unknown_ones_are_refused() -> None:
    for accepted in (FROM_GUEST, FROM_HOST):
        for number in range(256):
            header = HEADER.pack(0, number, 0 if number in CONNECTION_KINDS else 1)
            if number in accepted:
                assert len(list(FrameParser(accepted).feed(header))) == 1
            else:
                with pytest.raises(ProtocolError, match="unexpected frame kind"):
                    list(FrameParser(accepted).feed(header))


@pytest.mark.parametrize("kind", Kind)
def test_stream_0_belongs_to_the_connection_and_to_nothing_else(kind: Kind) -> None:
    wrong = 1 if kind in CONNECTION_KINDS else 0
    with pytest.raises(ProtocolError, match=f"on stream {wrong}"):
        list(FrameParser(frozenset(Kind)).feed(HEADER.pack(0, kind, wrong)))


def test_frames_before_a_broken_one_are_delivered_and_none_after() -> None:
    data = encode(Kind.PONG, 0, b"a") + HEADER.pack(0, 0xFF, 1) + encode(Kind.PONG, 0, b"b")
    delivered = []
    with pytest.raises(ProtocolError):
        for frame in FrameParser(FROM_GUEST).feed(data):
            delivered.append(frame)
    assert delivered == [(Kind.PONG, 0, b"a")]


def test_a_frame_that_never_ends_is_bounded_by_its_own_length() -> None:
    parser = FrameParser(FROM_GUEST)
    assert (
        list(parser.feed(HEADER.pack(MAX_PAYLOAD, Kind.STDOUT, 1) + bytes(MAX_PAYLOAD - 1))) == []
    )
    [(_, _, payload)] = parser.feed(b"\1")
    assert payload[-1:] == b"\1"
