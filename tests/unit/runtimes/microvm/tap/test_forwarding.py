"""Which interfaces lead to what a machine may reach, by the host's routes."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from mas_sandbox.runtimes.microvm.tap.forwarding import towards
from mas_sandbox.runtimes.microvm.tap.programs import Route

ROUTES: list[Route] = [
    {"dst": "default", "gateway": "10.0.0.1", "dev": "eth0"},
    {"dst": "10.0.0.0/24", "dev": "eth0"},
    {"dst": "203.0.113.0/25", "dev": "wg0"},
    {"dst": "198.51.100.0/24", "nexthops": [{"dev": "eth1"}, {"dev": "eth2"}]},
    {"type": "local", "dst": "203.0.113.7", "dev": "lo"},
    {"type": "broadcast", "dst": "203.0.113.255", "dev": "eth3"},
    {"type": "unreachable", "dst": "203.0.113.128/26"},
]


@pytest.mark.parametrize(
    ("block", "interfaces"),
    [
        ("8.8.8.0/24", {"eth0"}),
        ("203.0.113.0/24", {"eth0", "wg0"}),
        ("203.0.113.9/32", {"eth0", "wg0"}),  # more than it takes, never less
        ("198.51.100.5/32", {"eth0", "eth1", "eth2"}),
        ("0.0.0.0/0", {"eth0", "eth1", "eth2", "wg0"}),
    ],
)
def test_every_interface_with_a_route_there_is_found(block: str, interfaces: set[str]) -> None:
    assert towards(ROUTES, [IPv4Network(block)]) == interfaces


def test_without_routes_there_are_none() -> None:
    assert towards(ROUTES[1:3], [IPv4Network("8.8.8.0/24")]) == set()
