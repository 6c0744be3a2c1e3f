"""The table of addresses that are not the public Internet's."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from ipaddress import ip_address

import pytest

from mas_sandbox.egress.special import embedded, special_range

SPECIAL = {
    "0.0.0.0": "this network",
    "10.1.2.3": "private use",
    "172.16.0.1": "private use",
    "172.31.255.255": "private use",
    "192.168.1.1": "private use",
    "100.64.0.1": "carrier-grade NAT",
    "100.127.255.255": "carrier-grade NAT",
    "127.255.0.1": "loopback",
    "169.254.1.1": "link-local",
    "192.0.0.8": "protocol assignments",
    "192.0.2.1": "documentation",
    "198.51.100.1": "documentation",
    "203.0.113.1": "documentation",
    "198.18.0.1": "benchmarking",
    "198.19.255.255": "benchmarking",
    "192.88.99.1": "6to4 relay",
    "224.0.0.1": "multicast",
    "239.255.255.255": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "broadcast",
    "::": "unspecified",
    "::1": "loopback",
    "::ffff:8.8.8.8": "IPv4-mapped",
    "::8.8.8.8": "IPv4-compatible",
    "::10.0.0.1": "IPv4-compatible, of private use",
    "::ffff:0:127.0.0.1": "IPv4-translated, of loopback",
    "64:ff9b::10.0.0.1": "NAT64, of private use",
    "64:ff9b::127.0.0.1": "NAT64, of loopback",
    "64:ff9b:1::8.8.8.8": "NAT64 of local use",
    "64:ff9b:1:a:b::1": "NAT64 of local use",
    "100::1": "discard-only",
    "2001::1": "Teredo",
    "2001:2::1": "benchmarking",
    "2001:10::1": "ORCHID",
    "2001:20::1": "ORCHIDv2",
    "2001:db8::1": "documentation",
    "2001:1::1": "protocol assignments",
    "2002:808:808::1": "6to4",
    "2002:a00:1::1": "6to4, of private use",
    "2002:7f00:1::": "6to4, of loopback",
    "3fff::1": "documentation",
    "5f00::1": "segment routing",
    "fc00::1": "unique local",
    "fdff::1": "unique local",
    "fe80::1": "link-local",
    "febf::1": "link-local",
    "fec0::1": "site-local",
    "ff02::1": "multicast",
    "4000::1": "reserved",
    "1000::1": "reserved",
}


@pytest.mark.parametrize(("text", "name"), SPECIAL.items())
def test_NW_04_a_special_address_is_known_by_its_range(text: str, name: str) -> None:
    found = special_range(ip_address(text))
    assert found is not None
    assert found == name or found.startswith(f"{name}, of ")


@pytest.mark.parametrize(
    "text",
    [
        *("169.254.169.254", "169.254.170.2", "fd00:ec2::254", "100.100.100.200"),
        *("168.63.129.16", "169.254.170.23", "fd20:ce::254", "192.0.0.192"),
    ],
)
def test_NW_03_metadata_services_are_special_and_named(text: str) -> None:
    assert special_range(ip_address(text)) == "a cloud's metadata service"


@pytest.mark.parametrize(
    "text", ["64:ff9b::169.254.169.254", "2002:a9fe:a9fe::1", "::169.254.169.254"]
)
def test_NW_03_a_metadata_service_is_seen_through_a_translation(text: str) -> None:
    assert "metadata" in (special_range(ip_address(text)) or "")


@pytest.mark.parametrize(
    "text",
    [
        *("8.8.8.8", "1.1.1.1", "93.184.216.34", "100.63.255.255", "100.128.0.1", "172.32.0.1"),
        *("9.255.255.255", "11.0.0.0", "126.255.255.255", "128.0.0.0", "223.255.255.255"),
        *("2606:4700::1111", "2a00:1450::1", "64:ff9b::8.8.8.8", "2003::1", "2001:4860::8888"),
    ],
)
def test_a_public_address_is_not_special(text: str) -> None:
    assert special_range(ip_address(text)) is None


def test_nothing_that_python_calls_private_is_missing() -> None:
    """A second opinion on the table; where it is more generous, the table is not."""
    table: list[str] = [
        str(block)
        for constants in (ipaddress.IPv4Address, ipaddress.IPv6Address)
        for block in constants._constants._private_networks  # type: ignore[attr-defined]
    ]
    assert len(table) > 20
    for block in table:
        network = ipaddress.ip_network(block)
        for address in (network[0], network[-1]):
            assert special_range(address) is not None, address


def test_an_ipv4_address_is_found_inside_an_ipv6_one() -> None:
    assert embedded(ip_address("64:ff9b::1.2.3.4")) == ip_address("1.2.3.4")
    assert embedded(ip_address("2002:102:304::")) == ip_address("1.2.3.4")
    assert embedded(ip_address("2606:4700::1111")) is None
    assert embedded(ip_address("1.2.3.4")) is None


def test_an_address_of_this_host_is_known_without_a_packet() -> None:
    """In a network namespace of the test's own, whose loopback has a public address."""
    program = (
        "from ipaddress import ip_address\n"
        "from mas_sandbox.egress.special import is_this_host\n"
        "print([is_this_host(ip_address(a)) for a in"
        " ('93.184.216.34', '93.184.216.35', '2606:2800::1', '2606:2800::2')])\n"
    )
    script = (
        "ip link set lo up; ip addr add 93.184.216.34/32 dev lo;"
        'ip addr add 2606:2800::1/128 dev lo nodad; exec "$@"'
    )
    done = subprocess.run(
        [
            *["unshare", "--net", "--map-root-user", "sh", "-c"],
            script,
            "sh",
            sys.executable,
            "-c",
            program,
        ],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == "[True, False, True, False]", done.stderr
