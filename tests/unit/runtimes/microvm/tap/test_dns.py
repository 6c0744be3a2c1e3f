"""Questions as guests send them, well and ill formed, and the answers."""

from __future__ import annotations

import random
import struct
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from mas_sandbox.runtimes.microvm.tap import dns

NAME = b"\3api\7example\3org\0"


def question(
    name: bytes = NAME,
    kind: int = 1,
    family: int = 1,
    flags: int = 0x0100,
    counts: tuple[int, int, int, int] = (1, 0, 0, 0),
) -> bytes:
    return struct.pack("!6H", 7, flags, *counts) + name + struct.pack("!2H", kind, family)


def test_a_question_is_read() -> None:
    query = dns.parse(question(b"\3ApI\7eXample\3org\0"))
    assert (query.id, query.name, query.type) == (7, "api.example.org", dns.A)
    assert dns.parse(question(kind=16)).type == 16
    assert dns.parse(question(family=3)).type == 0  # CHAOS


def test_what_follows_the_question_is_not_read() -> None:
    option = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    assert dns.parse(question(counts=(1, 0, 0, 1)) + option).name == "api.example.org"


@pytest.mark.parametrize(
    "name",
    [
        b"\0",
        b"\1 \3org\0",
        b"\4a\0b\n\3org\0",
        b"\2\xc3\xa9\3org\0",
        b"\5a.b.c\3org\0",
        b"\1*\3org\0",
    ],
)
def test_a_name_that_no_host_has_is_none(name: bytes) -> None:
    assert dns.parse(question(name)).name == ""


@pytest.mark.parametrize(
    "data",
    [
        question(counts=(0, 0, 0, 0)),
        question(counts=(2, 0, 0, 0)),
        question(counts=(1, 1, 0, 0)),
        question(counts=(1, 0, 9, 0)),
        question(b"\xc0\x0c"),  # compressed, and pointing to itself
        question(b"\x40" + b"a" * 64 + b"\0"),
        question(b"\x3f" + b"a" * 63 + b"\0" * 0),
        question((b"\x3f" + b"a" * 63) * 4 + b"\0"),
        question()[:-1],
        question()[:14],
    ],
)
def test_a_question_that_cannot_be_read_is_told_so(data: bytes) -> None:
    with pytest.raises(dns.BadQuery) as caught:
        dns.parse(data)
    reply = caught.value.reply
    assert reply is not None
    assert struct.unpack("!6H", reply) == (7, 0x8181, 0, 0, 0, 0)


@pytest.mark.parametrize("data", [b"", b"x" * 11, question(flags=0x8180), bytes(513)])
def test_what_is_no_query_is_not_answered(data: bytes) -> None:
    with pytest.raises(dns.BadQuery) as caught:
        dns.parse(data)
    assert caught.value.reply is None


def test_other_operations_are_not_implemented() -> None:
    with pytest.raises(dns.BadQuery) as caught:
        dns.parse(question(flags=0x2900))
    assert caught.value.reply is not None
    assert caught.value.reply[3] & 15 == dns.Code.NOT_IMPLEMENTED


def test_no_bytes_do_more_than_be_refused() -> None:
    source = random.Random(7)
    for _ in range(5000):
        data = bytearray(question())
        for _ in range(source.randrange(1, 8)):
            data[source.randrange(len(data))] = source.randrange(256)
        with suppress(dns.BadQuery):
            dns.parse(bytes(data[: source.randrange(len(data) + 1)]))


def test_an_answer_repeats_the_question_and_fits_into_512_bytes() -> None:
    longest = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    query = dns.parse(question(longest))
    reply = dns.answer(query, dns.Code.NO_ERROR, [IPv4Address(number) for number in range(1000)])
    assert len(reply) <= 512
    assert struct.unpack_from("!6H", reply) == (7, 0x8180, 1, dns.MAX_ADDRESSES, 0, 0)
    assert reply[12:].startswith(question(longest)[12:])
    record = reply[-16:]
    assert record == struct.pack("!3HIH", 0xC00C, 1, 1, dns.TTL_S, 4) + bytes((0, 0, 0, 14))
