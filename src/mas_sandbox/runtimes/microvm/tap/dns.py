"""One question of the Domain Name System, and its answer: all of it that a machine needs.

A query is the guest's own bytes: every count and length is checked before it is used, and
names are not compressed in a query. Source: RFC 1035, section 4.1; RFC 6891 for the OPT
record that may follow the question, which is not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

MAX_QUERY = 512
MAX_ADDRESSES = 15
"""So many fit into an answer over UDP after the longest name there is."""
TTL_S = 30
A = 1
_INTERNET, _ANY_CLASS = 1, 255
_HEADER = struct.Struct("!6H")
_RESPONSE, _RECURSION_DESIRED, _RECURSION_AVAILABLE, _OPCODE = 0x8000, 0x0100, 0x0080, 0x7800
_NAME_OF_QUESTION = 0xC00C  # a pointer to offset 12
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


class Code(IntEnum):
    """RCODE."""

    NO_ERROR = 0
    FORMAT_ERROR = 1
    SERVER_FAILURE = 2
    NO_SUCH_NAME = 3
    NOT_IMPLEMENTED = 4


@dataclass(frozen=True, slots=True)
class Query:
    """`name`: lower case, without the last dot, "" for one that no host can have; `type`:
    0 where it is not of the Internet; `question`: its bytes, which the answer repeats."""

    id: int
    flags: int
    name: str
    type: int
    question: bytes


class BadQuery(Exception):
    """Not a query. `reply`: what to say to that, None for nothing."""

    def __init__(self, reply: bytes | None) -> None:
        super().__init__("not a query")
        self.reply = reply


def parse(data: bytes) -> Query:
    """Raises BadQuery."""
    if not _HEADER.size <= len(data) <= MAX_QUERY:
        raise BadQuery(None)
    number, flags, questions, answers, authorities, _ = _HEADER.unpack_from(data)
    if flags & _RESPONSE:  # answering an answer could go on for ever
        raise BadQuery(None)
    if flags & _OPCODE:
        raise BadQuery(_reply(number, flags, Code.NOT_IMPLEMENTED))
    labels, end = _labels(data)
    if labels is None or (questions, answers, authorities) != (1, 0, 0) or end + 4 > len(data):
        raise BadQuery(_reply(number, flags, Code.FORMAT_ERROR))
    kind, family = struct.unpack_from("!2H", data, end)
    name = b".".join(labels).lower()
    is_host = bool(labels) and all(_LETTERS.issuperset(label.lower()) for label in labels)
    return Query(
        number,
        flags,
        name.decode("ascii") if is_host else "",
        kind if family in (_INTERNET, _ANY_CLASS) else 0,
        data[_HEADER.size : end + 4],
    )


def answer(query: Query, code: Code, addresses: Iterable[IPv4Address] = ()) -> bytes:
    """At most 512 bytes."""
    records = [
        struct.pack("!3HIH4s", _NAME_OF_QUESTION, A, _INTERNET, TTL_S, 4, address.packed)
        for address in list(addresses)[:MAX_ADDRESSES]
    ]
    return _reply(query.id, query.flags, code, query.question, records)


def _labels(data: bytes) -> tuple[list[bytes] | None, int]:
    """The parts of the first question's name, None if it has none, and where it ends."""
    labels: list[bytes] = []
    at = _HEADER.size
    while at < len(data):
        length = data[at]
        at += 1
        if length == 0:
            return (labels if at - _HEADER.size <= 255 else None), at
        if length > 63:
            break
        labels.append(data[at : at + length])
        at += length
    return None, at


def _reply(
    number: int, flags: int, code: Code, question: bytes = b"", records: Iterable[bytes] = ()
) -> bytes:
    kept = flags & _RECURSION_DESIRED | _RESPONSE | _RECURSION_AVAILABLE | code
    body = list(records)
    header = _HEADER.pack(number, kept, 1 if question else 0, len(body), 0, 0)
    return header + question + b"".join(body)
