"""SOCKS5 as RFC 1928 has it, and what of it is not offered."""

from __future__ import annotations

import random

import pytest

from doubles.proxy_port import echo, proxy_port
from mas_sandbox.policy.grants import NetworkPolicy

pytestmark = pytest.mark.anyio

PUBLIC, PUBLIC6 = "93.184.216.34", "2606:4700::1111"
NETWORK = NetworkPolicy(
    hosts=("api.example.org",), cidrs=("93.184.216.0/24", "2606:4700::/32"), ports=(22,)
)
NAMES = {"api.example.org": [[PUBLIC]]}
SERVERS = {(PUBLIC, 22): echo, (PUBLIC6, 22): echo}
GREETING = b"\x05\x01\x00"
DONE = b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "target",
    [
        b"\x03\x0fapi.example.org",
        b"\x01\x5d\xb8\xd8\x22",
        b"\x04\x26\x06\x47\x00" + bytes(10) + b"\x11\x11",
        b"\x04" + bytes(10) + b"\xff\xff\x5d\xb8\xd8\x22",
    ],
)
async def test_names_and_addresses_are_connected_to(target: bytes) -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        sent = b"\x05\x02\x02\x00" + b"\x05\x01\x00" + target + b"\x00\x16" + b"\0hello"
        assert await port.ask(*[sent[i : i + 1] for i in range(len(sent))], end=True) == (
            DONE + b"\0hello"
        )
        assert port.decisions[0].protocol == "socks5"


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"\x05\x01\x02", b"\x05\xff"),  # a password only
        (b"\x05\x00", b"\x05\xff"),
        (GREETING + b"\x05\x02\x00\x01\x5d\xb8\xd8\x22\x00\x16", b"\x07"),  # BIND
        (GREETING + b"\x05\x03\x00\x01\x5d\xb8\xd8\x22\x00\x16", b"\x07"),  # UDP ASSOCIATE
        (GREETING + b"\x05\x01\x00\x02\x00\x00", b"\x08"),
        (GREETING + b"\x04\x01\x00\x01", b"\x01"),
        (GREETING + b"\x05\x01\x00\x01\x5d\xb8\xd8\x22\x00\x00", b"\x01"),  # port 0
        (GREETING + b"\x05\x01\x00\x03\x00\x00\x16", b"\x01"),  # no name
        (GREETING + b"\x05\x01\x00\x03\x02\xff\xfe\x00\x16", b"\x01"),  # not UTF-8
        (GREETING + b"\x05\x01\x00\x01\x7f\x00\x00\x01\x00\x16", b"\x02"),
    ],
)
async def test_NW_07_anything_else_is_answered_and_ended(sent: bytes, answer: bytes) -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        got = await port.ask(sent)
        assert got == answer or got[2:4] == b"\x05" + answer
        assert port.dialled == []
        assert [d.allowed for d in port.decisions] == [False]


async def test_a_client_that_leaves_early_is_nobodys_decision() -> None:
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        for sent in (b"", b"\x05", GREETING, GREETING + b"\x05\x01\x00\x03\x0fapi"):
            await port.ask(sent, end=True)
        assert port.decisions == []


async def test_no_bytes_are_a_fault_of_the_daemons() -> None:
    """Fuzz: refused, ended or relayed, and never an exception that is not for that."""
    rng = random.Random(5)
    async with proxy_port(NETWORK, NAMES, SERVERS) as (port, _):
        for _ in range(150):
            sent = bytearray(GREETING + b"\x05\x01\x00\x03\x0fapi.example.org\x00\x16")
            for _ in range(rng.randrange(1, 4)):
                sent[rng.randrange(1, len(sent))] = rng.randrange(256)
            await port.ask(bytes(sent), end=True)
        assert port.failures == []
        assert {name for name, _ in port.dialled} <= {PUBLIC, PUBLIC6}
