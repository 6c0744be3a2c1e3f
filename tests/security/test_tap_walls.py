"""What a hostile guest with a network device reaches: watched from the world it would reach.

The host's side is real, in network namespaces of this test's own; the guest is frames.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from doubles.network_world import ALLOWED, HOST, OTHER, PRIVATE, WORLD, NetworkWorld, run, state
from doubles.raw_guest import (
    BROADCAST,
    ICMP,
    TCP,
    UDP,
    RawGuest,
    arp,
    echo_request,
    query,
    tcp,
    udp,
)
from mas_sandbox.egress.host import Address
from mas_sandbox.policy.grants import NetworkPolicy
from mas_sandbox.runtimes.microvm.config import NetworkConfig
from mas_sandbox.runtimes.microvm.tap.network import TapNetwork
from mas_sandbox.runtimes.microvm.tap.reach import Reach, common_reach
from mas_sandbox.runtimes.ownership import Ownership

pytestmark = pytest.mark.anyio

CIDRS = ("203.0.113.0/24", "0.0.0.0/0")
CONFIG = NetworkConfig(True, "mas{id}", None, CIDRS, ("*.example.org",))
POLICY = NetworkPolicy(hosts=("*.example.org",), cidrs=("203.0.113.0/24",), ports=(443, 53, 853))


@pytest.fixture
def world() -> Iterator[NetworkWorld]:
    with NetworkWorld() as made:
        yield made


@pytest.fixture
async def network(world: NetworkWorld, tmp_path: Path) -> AsyncIterator[TapNetwork]:
    """After each test nothing is left of it on the host."""
    before = state()
    ownership = Ownership(tmp_path / "locks")
    yield TapNetwork(ownership, CONFIG, looked_up)
    ownership.close()
    assert state() == before


asked: list[str] = []


async def looked_up(name: str) -> list[Address]:
    asked.append(name)
    return [IPv4Address(ALLOWED), IPv4Address(PRIVATE)]


def reach(policy: NetworkPolicy = POLICY, kb_per_s: int | None = None) -> Reach:
    common = common_reach(CONFIG, policy, kb_per_s)
    assert common is not None
    return common


@asynccontextmanager
async def joined(network: TapNetwork, kb_per_s: int | None = None) -> AsyncIterator[RawGuest]:
    async with network.link(reach(kb_per_s=kb_per_s)) as link:
        yield await asyncio.to_thread(RawGuest, link)


async def test_what_is_allowed_is_reached_under_the_hosts_own_address(
    world: NetworkWorld, network: TapNetwork
) -> None:
    world.listener(ALLOWED, 443)
    async with joined(network) as guest:
        assert guest.connect(ALLOWED, 443) == "open"
        (first, *_) = world.seen()
        assert (first.source, first.target, first.port) == (HOST, ALLOWED, 443)


async def test_whatever_else_a_guest_sends_never_gets_to_the_world(
    world: NetworkWorld, network: TapNetwork
) -> None:
    for address in (ALLOWED, OTHER, PRIVATE, WORLD):
        for port in (53, 80, 443, 853):
            world.listener(address, port)
    async with joined(network) as guest:
        for target, port in (
            (ALLOWED, 80),
            (ALLOWED, 53),  # names are asked of the daemon only
            (ALLOWED, 853),
            (OTHER, 443),  # within the operator's blocks, but not within the policy's
            (PRIVATE, 443),
            (WORLD, 443),
        ):
            assert guest.connect(target, port) == "prohibited", (target, port)
        for target in (ALLOWED, OTHER, WORLD, "255.255.255.255", "224.0.0.251", "10.77.0.255"):
            for port in (53, 443, 5353):
                guest.send_ip(target, UDP, udp(guest.ip, target, 5000, port, b"out"))
            guest.send_ip(target, ICMP, echo_request())
            for protocol in (2, 47, 50, 132):  # IGMP, GRE, ESP, SCTP
                guest.send_ip(target, protocol, b"x" * 20)
        assert world.seen() == []


async def test_a_guest_that_lies_about_itself_is_not_heard(
    world: NetworkWorld, network: TapNetwork
) -> None:
    world.listener(ALLOWED, 443)
    async with joined(network) as guest:
        for setting in Path("/proc/sys/net/ipv4/conf").glob("*/*"):
            if setting.name in ("rp_filter", "arp_ignore"):  # the rules hold alone
                setting.write_text("0")
        for ip in (HOST, WORLD, "198.18.0.77", "127.0.0.1", "203.0.113.99", guest.gateway):
            assert guest.connect(ALLOWED, 443, ip=ip) == "silence", ip
        other = bytes.fromhex("020000000099")
        assert guest.connect(ALLOWED, 443, mac=other) == "silence"
        assert world.seen() == []
        for mac, ip, target in (
            (guest.mac, WORLD, guest.gateway),
            (guest.mac, guest.gateway, guest.gateway),
            (other, guest.ip, guest.gateway),
            (guest.mac, guest.ip, HOST),  # one of the host's other addresses
        ):
            for operation in (1, 2):
                guest.send(BROADCAST, guest.mac, 0x0806, arp(operation, mac, ip, bytes(6), target))
        assert guest.received(0.3) == []
        known = run("ip -4 neighbour show")
        assert [line.split()[0] for line in known.splitlines() if "PERMANENT" in line] == [guest.ip]
        assert other.hex(":") not in known
        assert guest.connect(ALLOWED, 443) == "open"


async def test_nothing_but_ipv4_is_spoken_with_a_guest(
    world: NetworkWorld, network: TapNetwork
) -> None:
    world.listener(ALLOWED, 443)
    async with joined(network) as guest:
        local = bytes.fromhex("fe80000000000000000000fffe000001")
        everyone = bytes.fromhex("ff020000000000000000000000000001")
        for kind in (133, 134, 135, 128):  # solicitations, an advertisement, an echo request
            body = bytes((kind, 0, 0, 0)) + bytes(20)
            head = bytes((0x60, 0, 0, 0)) + len(body).to_bytes(2) + bytes((58, 255))
            for to in (guest.gateway_mac, bytes.fromhex("333300000001")):
                guest.send(to, guest.mac, 0x86DD, head + local + everyone + body)
        tagged = bytes.fromhex("00010800")
        guest.send(guest.gateway_mac, guest.mac, 0x8100, tagged + bytes(60))
        assert guest.received(0.3) == []
        assert world.seen() == []
        (name,) = [
            line.split(":")[1].strip() for line in run("ip -o link").splitlines() if "mas" in line
        ]
        assert run(f"ip -6 -o address show dev {name}") == ""


async def test_the_hosts_own_services_are_out_of_reach(
    world: NetworkWorld, network: TapNetwork
) -> None:
    run("ip address add 203.0.113.200/32 dev lo")  # of the host, and within what is allowed
    with socket.create_server(("0.0.0.0", 443)) as daemon:
        daemon.setblocking(False)
        async with joined(network) as guest:
            for target in (guest.gateway, HOST, "203.0.113.200", "127.0.0.1"):
                assert guest.connect(target, 443) == "silence", target
        with pytest.raises(BlockingIOError):
            daemon.accept()
    run("ip address del 203.0.113.200/32 dev lo")


async def test_one_guest_does_not_reach_another(
    world: NetworkWorld, network: TapNetwork, tmp_path: Path
) -> None:
    """Of the same daemon, and of another that would allow it."""
    other = Ownership(tmp_path / "locks")
    config = NetworkConfig(True, "mas{id}", None, ("198.18.0.0/15",))
    every = common_reach(config, NetworkPolicy(cidrs=("198.18.0.0/15",)))
    assert every is not None
    neighbour = TapNetwork(other, config, looked_up)
    async with joined(network) as one, joined(network) as two, neighbour.link(every) as link:
        three = await asyncio.to_thread(RawGuest, link)
        for guest, target in ((one, two), (one, three), (three, one)):
            assert guest.connect(target.ip, 443) != "open"
            assert guest.connect(target.gateway, 443) != "open"
            assert target.received(0.1) == []
    other.close()


async def test_the_host_routes_for_its_guests_and_for_nobody_else(
    world: NetworkWorld, network: TapNetwork
) -> None:
    """The uplink has to forward while a machine runs. The world cannot make use of that."""
    run("ip link add lan0 type veth peer name lan1; ip link set lan0 up; ip link set lan1 up")
    run(
        "ip address add 10.88.0.1/24 dev lan0; ip neighbour add 10.88.0.2 lladdr 02:00:00:00:00:02 dev lan0"
    )
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as lan:
        lan.bind(("lan1", 0))
        lan.setblocking(False)
        async with joined(network) as guest:
            assert Path("/proc/sys/net/ipv4/conf/up0/forwarding").read_text() == "1\n"
            with world.in_world():
                run(f"ip route add {guest.ip} via {HOST}; ip route add 10.88.0.0/24 via {HOST}")
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
                    for target in (guest.ip, "10.88.0.2"):
                        outside.sendto(b"in", (target, 443))
            assert guest.received(0.3) == []
            with pytest.raises(BlockingIOError):
                lan.recv(2000)
    run("ip link del lan0")


async def test_the_resolver_tells_allowed_names_and_forwards_no_other(
    world: NetworkWorld, network: TapNetwork
) -> None:
    asked.clear()

    def ask(guest: RawGuest, name: str, kind: int = 1) -> bytes:
        datagram = udp(guest.ip, guest.gateway, 5000, 53, query(name, kind))
        guest.send_ip(guest.gateway, UDP, datagram)
        (frame,) = guest.received(1)
        return frame.body[28:]

    async with joined(network) as guest:
        told = await asyncio.to_thread(ask, guest, "api.example.org")
        assert told[3] & 15 == 0
        assert told.count(IPv4Address(ALLOWED).packed) == 1
        assert IPv4Address(PRIVATE).packed not in told  # nothing that cannot be reached
        for number in range(10):
            secret = f"{number:060x}.evil.example"
            assert (await asyncio.to_thread(ask, guest, secret))[3] & 15 == 3
        assert (await asyncio.to_thread(ask, guest, "api.example.org", 16))[6:8] == b"\0\0"
        with world.in_world():
            run(f"ip route add {guest.gateway} via {HOST}")
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as outside:
                outside.settimeout(0.3)
                outside.sendto(query("api.example.org"), (guest.gateway, 53))
                with pytest.raises(TimeoutError):  # it is the guest's, not the world's
                    await asyncio.to_thread(outside.recv, 512)
        world.seen()
    assert asked == ["api.example.org"]
    assert world.seen() == []


async def test_questions_are_counted(world: NetworkWorld, network: TapNetwork) -> None:
    async with joined(network) as guest:
        answered = 0
        for number in range(300):
            name = f"n{number}.evil.example"
            guest.send_ip(guest.gateway, UDP, udp(guest.ip, guest.gateway, 5000, 53, query(name)))
        while frames := await asyncio.to_thread(guest.received, 0.3):
            answered += len(frames)
    assert 0 < answered < 120  # a burst of 50, and 20 a second


async def test_a_flushed_ruleset_leaves_a_guest_with_nothing(
    world: NetworkWorld, network: TapNetwork
) -> None:
    world.listener(ALLOWED, 443)
    async with joined(network) as guest:
        assert guest.connect(ALLOWED, 443) == "open"
        run("nft flush ruleset")
        async with asyncio.timeout(10):
            while Path("/proc/sys/net/ipv4/conf/up0/forwarding").read_text() != "0\n":
                await asyncio.sleep(0.01)
        world.seen()
        with pytest.raises(OSError, match="Input/output error"):
            guest.connect(ALLOWED, 443)
        assert world.seen() == []
        async with joined(network) as another:  # a new one has rules again
            assert another.connect(ALLOWED, 443) == "open"
            assert another.connect(OTHER, 443) == "prohibited"


async def test_bandwidth_is_held(world: NetworkWorld, network: TapNetwork) -> None:
    """1 MiB is sent at once where 64 KiB a second are allowed: a burst of 128 goes through."""
    async with joined(network, kb_per_s=64) as guest:
        for _ in range(1024):
            guest.send_ip(ALLOWED, TCP, tcp(guest.ip, ALLOWED, 40_001, 443) + bytes(984))
        passed = len(world.seen())
    assert 64 <= passed <= 400
