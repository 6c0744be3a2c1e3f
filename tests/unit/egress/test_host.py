"""One spelling in, one host out; what two parsers could read differently is refused."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, ip_address

import pytest

from mas_sandbox.egress.host import Host, parse_authority, parse_host
from mas_sandbox.egress.refusal import Refused

LOOPBACK = ip_address("127.0.0.1")


@pytest.mark.parametrize(
    "spelling",
    [
        "2130706433",
        "0x7f.1",
        "0x7F000001",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "127.0.0.1.",
        "\uff11\uff12\uff17.\uff10.\uff10.\uff11",
        "127。0。0。1",
        "①②⑦.0.0.1",
        "::ffff:127.0.0.1",
        "[::ffff:7f00:1]",
        "[0:0:0:0:0:ffff:127.0.0.1]",
    ],
)
def test_NW_05_every_spelling_of_an_address_is_that_address(spelling: str) -> None:
    assert parse_host(spelling) == Host("127.0.0.1", LOOPBACK)


@pytest.mark.parametrize(
    "spelling",
    [
        *("256.1", "1.2.3.256", "1.2.3.4.5", "0x100000000", "4294967296", "08.0.0.1", "1..1"),
        *("0x", "1.0x", "a.b.1", "1_0.1", "0x7f.0_0.1"),
        *("[fe80::1%eth0]", "fe80::1%25eth0", "[::1", "::1]", "[127.0.0.1]", "[]", ":::", "1:2"),
    ],
)
def test_NW_05_what_is_nearly_an_address_is_refused(spelling: str) -> None:
    with pytest.raises(Refused):
        parse_host(spelling)


@pytest.mark.parametrize(
    "spelling",
    [
        *("a\0.example.org", "api.example.org\0.evil.org", "a\r\nHost: b", "a\nb", "a b", "a\tb"),
        *("a%2eb", "a%00b", "user@a.org", "a/b", "a\\b", "a?b", "a#b", "a,b", "a;b", "a:b", "*"),
        *("a..b", ".a", "a..", ".", "", "-a.org", "a-.org", "a" * 64 + ".org", "a." * 127 + "org"),
        *(
            "münchen.example",
            "a\u00adb.org",
            "a\u200bb.org",
            "℀.org",
            "a\uff052eb.org",
            "a\uff20b.org",
        ),
        *("a\x7f.org", "x" * 5000, "\ufdfa" * 1000, "a\ud800b"),
    ],
)
def test_NW_07_what_parsers_disagree_about_is_refused(spelling: str) -> None:
    with pytest.raises(Refused):
        parse_host(spelling)


def test_a_name_has_one_spelling() -> None:
    assert parse_host("API.Example.ORG.") == Host("api.example.org")
    assert parse_host("\uff41\uff50\uff49\uff0eexample。org") == Host("api.example.org")
    assert parse_host("xn--mnchen-3ya.example").text == "xn--mnchen-3ya.example"
    assert parse_host("_dmarc.a-b.org").address is None
    assert parse_host("2606:4700:0:0::1111").text == "2606:4700::1111"


def test_an_authority_names_host_and_port() -> None:
    assert parse_authority("a.org:8443", None) == (Host("a.org"), 8443)
    assert parse_authority("[::1]:80", None) == (parse_host("::1"), 80)
    assert parse_authority("[::1]", 80) == (parse_host("::1"), 80)
    assert parse_host("::1").at(80) == "[::1]:80"
    assert Host("a.org").at(443) == "a.org:443"
    for text in (
        "a.org",
        "a.org:",
        "a.org:0",
        "a.org:65536",
        "a.org:+1",
        "a.org:\uff11",
        "::1:80",
        ":1",
    ):
        with pytest.raises(Refused):
            parse_authority(text, None)


def test_whatever_is_read_reads_the_same_again() -> None:
    """Fuzz: a host is canonical, or refused with a reason that can be printed."""
    rng = random.Random(4)
    alphabet = "0123456789abcdefxABZ.:[]%-_@ \0\r\n/\\\uff11。\uff0eé\u00ad\ud800"
    read = 0
    for _ in range(20_000):
        spelling = "".join(rng.choices(alphabet, k=rng.randrange(1, 14)))
        try:
            host = parse_host(spelling)
        except Refused as refusal:
            assert refusal.reason.isascii() and refusal.reason.isprintable()
            continue
        read += 1
        assert host.text.isascii() and host.text.isprintable()
        assert parse_host(host.text) == host
        assert isinstance(host.address, IPv4Address) or not host.text.split(".")[-1].isdigit()
    assert read > 200
