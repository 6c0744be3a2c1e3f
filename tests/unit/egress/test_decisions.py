"""Which connections are made: through the proxy port, by every protocol it speaks."""

from __future__ import annotations

import pytest

from doubles.proxy_port import answering, echo, proxy_port, unanswered
from mas_sandbox.egress.decision import Decision
from mas_sandbox.policy.grants import NetworkPolicy
from mas_sandbox.wire.errors import SandboxError

pytestmark = pytest.mark.anyio

PUBLIC, OTHER = "93.184.216.34", "93.184.216.35"
SSH = 22
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
API = NetworkPolicy(hosts=("api.example.org",), ports=(80, 443, SSH))


def connect(authority: str) -> bytes:
    return f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode("latin-1")


def get(url: str, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in ("Host: x", *headers))
    return f"GET {url} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def socks(name: bytes, port: int = 443, *, command: int = 1) -> bytes:
    request = bytes([5, command, 0, 3, len(name)]) + name + port.to_bytes(2)
    return b"\x05\x01\x00" + request


REPLY = b"\x05\x00\x05%c\x00\x01\x00\x00\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "network", [None, NetworkPolicy(), NetworkPolicy(hosts=("a.org",), ports=())]
)
async def test_NW_02_a_policy_that_reaches_nothing_says_so(network: NetworkPolicy | None) -> None:
    async with proxy_port(network, {"a.org": [[PUBLIC]]}, {(PUBLIC, 443): echo}) as (port, _):
        answer = await port.ask(connect("a.org:443"))
        assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"mas-sandbox: the policy of this sandbox allows no network" in answer
        assert await port.ask(socks(b"a.org")) == REPLY % 2
        assert await port.ask(connect(f"{PUBLIC}:443")) != b""
        assert port.dialled == [] and port.resolved == []
        assert port.refused == ["network"] * 3


async def test_an_allowed_name_is_resolved_here_and_dialled_by_its_address() -> None:
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, {(PUBLIC, SSH): echo}) as (
        port,
        servers,
    ):
        _, writer = await port.tunnel("API.Example.org.", SSH)
        writer.close()
        assert port.dialled == [(PUBLIC, SSH)] and servers[PUBLIC, SSH].accepted == 1
        assert port.decisions == [
            Decision(
                protocol="connect",
                host="api.example.org",
                port=SSH,
                address=PUBLIC,
                allowed=True,
                rule="network.hosts: api.example.org",
            )
        ]


async def test_the_decision_is_written_down_before_the_dial() -> None:
    order: list[str] = []
    names = {"api.example.org": [[PUBLIC]]}
    async with proxy_port(
        API, names, {(PUBLIC, SSH): echo}, record=lambda _: order.append(f"dialled {port.dialled}")
    ) as (port, _):
        await port.tunnel("api.example.org", SSH)
        assert order == ["dialled []"]


@pytest.mark.parametrize(
    "request_", [connect("api.example.org:22"), get("http://api.example.org/")]
)
async def test_nothing_is_dialled_when_the_decision_cannot_be_written_down(request_: bytes) -> None:
    def fail(decision: Decision) -> None:
        raise OSError("the disk is full")

    servers = {(PUBLIC, SSH): echo, (PUBLIC, 80): echo}
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, servers, record=fail) as (port, _):
        assert await port.ask(request_) == b""
        assert port.dialled == []
        assert [type(failure) for failure in port.failures] == [SandboxError]


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "127.0.0.1", "169.254.1.1"),
        *(
            "::1",
            "fd00::1",
            "fe80::1",
            "ff02::1",
            "64:ff9b::a00:1",
            "2002:a00:1::",
            "::ffff:10.0.0.1",
        ),
        *(
            "::10.0.0.1",
            "224.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "168.63.129.16",
            "fd00:ec2::254",
        ),
    ],
)
async def test_NW_04_an_allowed_name_does_not_reach_a_special_address(address: str) -> None:
    async with proxy_port(API, {"api.example.org": [[address]]}) as (port, _):
        answer = await port.ask(connect("api.example.org:443"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"X-Mas-Sandbox-Rule: special range: " in answer
        assert port.dialled == []
        assert [d.address for d in port.decisions] == [""]
        assert not port.decisions[0].allowed


async def test_NW_04_of_a_mixed_answer_only_the_vetted_addresses_are_dialled() -> None:
    names = {"api.example.org": [["10.0.0.1", OTHER, "127.0.0.1", PUBLIC]]}
    servers = {("10.0.0.1", SSH): echo, ("127.0.0.1", SSH): echo, (PUBLIC, SSH): echo}
    async with proxy_port(API, names, servers) as (port, _):
        await port.tunnel("api.example.org", SSH)
        assert port.dialled == [(OTHER, SSH), (PUBLIC, SSH)]


async def test_a_mapped_address_in_an_answer_is_the_ipv4_one() -> None:
    names = {"api.example.org": [[f"::ffff:{PUBLIC}"]]}
    async with proxy_port(API, names) as (port, _):
        await port.ask(connect("api.example.org:443"))
        assert port.dialled == [(PUBLIC, 443)]


async def test_a_special_address_is_dialled_where_the_policy_names_its_block() -> None:
    network = NetworkPolicy(hosts=("db.internal",), cidrs=("10.0.0.0/8",), ports=(SSH,))
    names = {"db.internal": [["10.0.0.1"]], "other.internal": [["10.0.0.1"]]}
    async with proxy_port(network, names, {("10.0.0.1", SSH): echo}) as (port, _):
        await port.tunnel("db.internal", SSH)
        await port.tunnel("10.0.0.1", SSH)
        assert (await port.ask(connect("other.internal:22"))).startswith(b"HTTP/1.1 403 ")
        assert (await port.ask(connect("192.168.0.1:22"))).startswith(b"HTTP/1.1 403 ")
        assert len(port.dialled) == 2
        assert port.refused == ["network.hosts", "special range: private use"]


async def test_a_translated_address_needs_what_it_stands_for_to_be_allowed_too() -> None:
    network = NetworkPolicy(cidrs=("64:ff9b::/96",), ports=(SSH,))
    servers = {("64:ff9b::808:808", SSH): echo, ("64:ff9b::a00:1", SSH): echo}
    async with proxy_port(network, {}, servers) as (port, _):
        await port.tunnel("[64:ff9b::8.8.8.8]", SSH)
        assert b" 403 " in await port.ask(connect("[64:ff9b::10.0.0.1]:22"))
        assert port.dialled == [("64:ff9b::808:808", SSH)]


@pytest.mark.parametrize(
    "literal",
    [
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "127.0.0.1",
        "127.0.0.1.",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_NW_05_no_spelling_of_an_address_is_taken_for_a_name(literal: str) -> None:
    async with proxy_port(API, {literal.strip("[]"): [[PUBLIC]]}, {(PUBLIC, 443): echo}) as (
        port,
        _,
    ):
        assert b" 403 " in await port.ask(connect(f"{literal}:443"))
        assert b" 403 " in await port.ask(get(f"http://{literal}/"))
        assert await port.ask(socks(literal.encode())) == REPLY % 2
        assert port.dialled == [] and port.resolved == []
        assert {d.host for d in port.decisions} <= {"127.0.0.1", "::1"}


async def test_NW_05_full_width_digits_are_an_address() -> None:
    async with proxy_port(API) as (port, _):
        assert (
            await port.ask(socks("\uff11\uff12\uff17.\uff10.\uff10.\uff11".encode())) == REPLY % 2
        )
        assert port.decisions[0].host == "127.0.0.1"


async def test_NW_06_each_connection_resolves_anew_and_dials_what_it_vetted() -> None:
    names = {"api.example.org": [[PUBLIC], ["127.0.0.1"], [PUBLIC]]}
    servers = {(PUBLIC, SSH): echo, ("127.0.0.1", SSH): echo}
    async with proxy_port(API, names, servers) as (port, listening):
        await port.tunnel("api.example.org", SSH)
        assert b"special range: loopback" in await port.ask(connect("api.example.org:22"))
        await port.tunnel("api.example.org", SSH)
        assert len(port.resolved) == 3
        assert port.dialled == [(PUBLIC, SSH)] * 2
        assert listening["127.0.0.1", SSH].accepted == 0


@pytest.mark.parametrize(
    "host",
    [
        *("api.example.org\0.evil.org", "evil.org\0api.example.org", "api.example.org%00.evil.org"),
        *(
            "api.example.org\r\nX: y",
            "a b",
            "user@api.example.org",
            "api%2eexample.org",
            "a\tb",
            "",
        ),
    ],
)
async def test_NW_07_a_host_with_bytes_out_of_place_is_refused(host: str) -> None:
    names = {host: [[PUBLIC]], "api.example.org": [[PUBLIC]]}
    async with proxy_port(API, names, {(PUBLIC, 443): echo}) as (port, _):
        answer = await port.ask(socks(host.encode()))
        assert answer == REPLY % 1
        assert (await port.ask(connect(f"{host}:443"))).startswith(b"HTTP/1.1 4")
        assert port.dialled == [] and port.resolved == []
        assert not any(decision.allowed for decision in port.decisions)


async def test_NW_08_every_hop_of_a_redirect_is_decided_anew() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1/\r\nContent-Length: 0\r\n\r\n"
    names = {"api.example.org": [[PUBLIC]]}
    async with proxy_port(API, names, {(PUBLIC, 80): answering(moved)}) as (port, _):
        assert b"302 Found" in await port.ask(get("http://api.example.org/"))
        assert port.dialled == [(PUBLIC, 80)]  # it is the client's to follow
        assert b" 403 " in await port.ask(get("http://10.0.0.1/"))
        assert port.dialled == [(PUBLIC, 80)]


async def test_NW_10_a_relay_inside_gets_the_verdict_that_anyone_gets() -> None:
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, {(PUBLIC, 80): echo}) as (port, _):
        for _ in range(2):
            assert b" 403 " in await port.ask(connect("evil.org:443"))
        reader, writer = await port.tunnel("api.example.org", 80)
        writer.write(connect("evil.org:443"))
        assert b" 400 " in await reader.readuntil(b"\r\n")
        assert port.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize("number", [53, 853, 8443, 3128, 1])
async def test_NW_11_a_port_that_is_not_named_is_refused(number: int) -> None:
    names = {"api.example.org": [[PUBLIC]]}
    async with proxy_port(API, names, {(PUBLIC, number): echo}) as (port, _):
        assert b"X-Mas-Sandbox-Rule: network.ports" in await port.ask(
            connect(f"api.example.org:{number}")
        )
        assert await port.ask(socks(b"api.example.org", number)) == REPLY % 2
        assert b" 403 " in await port.ask(get(f"http://api.example.org:{number}/"))
        assert port.dialled == [] and port.resolved == []


async def test_NW_11_only_443_where_nobody_said() -> None:
    network = NetworkPolicy(hosts=("api.example.org",))
    async with proxy_port(network, {"api.example.org": [[PUBLIC]]}) as (port, _):
        assert b" 403 " in await port.ask(get("http://api.example.org/"))
        assert port.resolved == []


async def test_NW_12_a_name_that_is_not_allowed_is_never_looked_up() -> None:
    async with proxy_port(API) as (port, _):
        for number in range(50):
            label = f"{number:03}{'x' * 60}"
            await port.ask(connect(f"{label}.evil.org:443"))
        assert port.resolved == []
        assert port.refused == ["network.hosts"] * 50


@pytest.mark.parametrize(
    "host",
    [
        *("evil-example.org", "evilexample.org", "example.org.evil.com", "example.org"),
        *("api.example.orga", "org", "example", "localhost", "a.api.example.com"),
    ],
)
async def test_NW_13_a_wildcard_covers_whole_labels_below_its_domain(host: str) -> None:
    network = NetworkPolicy(hosts=("*.example.org",))
    async with proxy_port(network, {host: [[PUBLIC]]}, {(PUBLIC, 443): echo}) as (port, _):
        assert b" 403 " in await port.ask(connect(f"{host}:443"))
        assert port.resolved == []


async def test_NW_13_names_below_the_domain_are_covered() -> None:
    network = NetworkPolicy(hosts=("*.example.org",), ports=(SSH,))
    names = {"a.example.org": [[PUBLIC]], "a.b.example.org": [[PUBLIC]]}
    async with proxy_port(network, names, {(PUBLIC, SSH): echo}) as (port, _):
        await port.tunnel("a.example.org", SSH)
        await port.tunnel("a.b.example.org", SSH)
        assert [d.rule for d in port.decisions] == ["network.hosts: *.example.org"] * 2


async def test_NW_15_a_public_address_of_this_host_is_not_reached_by_a_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mas_sandbox.egress.reach.is_this_host", lambda address: True)
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, {(PUBLIC, 443): echo}) as (port, _):
        answer = await port.ask(connect("api.example.org:443"))
        assert b"special range: this host's own address" in answer
        assert port.dialled == []


async def test_a_name_without_dots_has_to_be_named() -> None:
    network = NetworkPolicy(hosts=("registry",), ports=(SSH,))
    async with proxy_port(network, {"registry": [[PUBLIC]]}, {(PUBLIC, SSH): echo}) as (port, _):
        await port.tunnel("registry", SSH)
        assert b" 403 " in await port.ask(connect("localhost:22"))


@pytest.mark.parametrize(
    ("address", "status", "reply"), [(PUBLIC, b"504", 6), (OTHER, b"502", 5), (None, b"502", 4)]
)
async def test_failures_there_are_told_apart(
    address: str | None, status: bytes, reply: int
) -> None:
    names = {"api.example.org": [[address]]} if address else {}
    async with proxy_port(API, names, {(PUBLIC, 443): unanswered}) as (port, _):
        answer = await port.ask(connect("api.example.org:443"))
        assert answer.startswith(b"HTTP/1.1 %b " % status) and b"mas-sandbox: " in answer
        assert await port.ask(socks(b"api.example.org")) == REPLY % reply
        refused = "dial" if address else "resolve"
        assert port.refused == [refused] * 2


async def test_what_follows_a_connect_at_once_is_carried() -> None:
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, {(PUBLIC, SSH): echo}) as (port, _):
        answer = await port.ask(connect("api.example.org:22") + b"\0hello", end=True)
        assert answer == b"HTTP/1.1 200 Connection established\r\n\r\n\0hello"


async def test_a_refusal_leaves_no_connection_in_the_counters() -> None:
    async with proxy_port(API, {"api.example.org": [[PUBLIC]]}, {(PUBLIC, SSH): echo}) as (port, _):
        await port.ask(connect("evil.org:443"))
        assert (port.session.connections, port.session.bytes_in, port.session.bytes_out) == (
            0,
            0,
            0,
        )
        reader, writer = await port.tunnel("api.example.org", SSH)
        writer.write(b"\0hello")
        assert await reader.readexactly(6) == b"\0hello"
        assert (port.session.connections, port.session.bytes_in, port.session.bytes_out) == (
            1,
            6,
            6,
        )
