"""What a machine's device reaches: what config file and policy have in common, no more."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from mas_sandbox.policy.grants import HttpRule, NetworkPolicy
from mas_sandbox.runtimes.microvm.config import NetworkConfig
from mas_sandbox.runtimes.microvm.tap.reach import Reach, common_reach


def config(*cidrs: str, hosts: tuple[str, ...] = (), enabled: bool = True) -> NetworkConfig:
    return NetworkConfig(enabled, "mas{id}", None, cidrs, hosts)


def reaches(reach: Reach | None, address: str) -> bool:
    return reach is not None and any(IPv4Address(address) in block for block in reach.blocks)


@pytest.mark.parametrize(
    "policy",
    [
        None,
        NetworkPolicy(),
        NetworkPolicy(hosts=("api.example.org",)),
        NetworkPolicy(cidrs=("198.51.100.0/24",)),
        NetworkPolicy(cidrs=("2001:db8::/32",)),
        NetworkPolicy(cidrs=("203.0.113.0/24",), ports=()),
        # What rules for packets cannot hold: the device is not to be a way around it.
        NetworkPolicy(cidrs=("203.0.113.0/24",), http=(HttpRule(),)),
        NetworkPolicy(cidrs=("203.0.113.0/24",), max_connections=3),
        NetworkPolicy(cidrs=("203.0.113.0/24",), max_mb=1),
    ],
)
def test_a_policy_that_allows_nothing_in_common_gets_no_device(
    policy: NetworkPolicy | None,
) -> None:
    assert common_reach(config("203.0.113.0/24"), policy) is None


def test_no_device_is_given_where_the_operator_has_not_asked_for_it() -> None:
    policy = NetworkPolicy(cidrs=("203.0.113.0/24",))
    assert common_reach(config("203.0.113.0/24", enabled=False), policy) is None


def test_blocks_are_the_narrower_of_the_two() -> None:
    policy = NetworkPolicy(cidrs=("8.8.8.0/24", "9.9.0.0/16"), ports=(8443, 443))
    reach = common_reach(config("8.0.0.0/8", "9.9.9.0/24"), policy)
    assert reach is not None
    assert sorted(map(str, reach.blocks)) == ["8.8.8.0/24", "9.9.9.0/24"]
    assert reach.ports == (443, 8443)


def test_special_ranges_are_reached_only_where_both_name_them() -> None:
    halves = NetworkPolicy(cidrs=("0.0.0.0/1", "128.0.0.0/1"))
    everything = config("0.0.0.0/0")
    wide = common_reach(everything, halves)
    assert reaches(wide, "8.8.8.8")
    assert reaches(wide, "192.167.255.255")
    special = ("10.1.2.3", "127.0.0.1", "169.254.1.1", "192.168.0.1", "100.64.0.1", "224.0.0.1")
    for address in (*special, "198.18.0.2", "255.255.255.255", "168.63.129.16"):
        assert not reaches(wide, address), address
    private = NetworkPolicy(cidrs=("10.1.0.0/16",))
    assert common_reach(everything, private) is None
    assert common_reach(config("10.0.0.0/8"), halves) is None
    assert reaches(common_reach(config("10.0.0.0/8"), private), "10.1.2.3")
    assert not reaches(common_reach(config("10.0.0.0/8"), private), "10.2.0.1")


def test_a_name_is_resolved_where_both_allow_it() -> None:
    policy = NetworkPolicy(
        cidrs=("203.0.113.0/24",), hosts=("api.example.org", "*.sub.example.org", "other.example")
    )
    reach = common_reach(config("203.0.113.0/24", hosts=("*.example.org",)), policy)
    assert reach is not None
    assert reach.resolves("api.example.org")
    assert reach.resolves("a.sub.example.org")
    for name in ("www.example.org", "other.example", "example.org", "evilexample.org", "org"):
        assert not reach.resolves(name), name


def test_without_names_nothing_is_resolved() -> None:
    policy = NetworkPolicy(cidrs=("203.0.113.0/24",), hosts=("api.example.org",))
    reach = common_reach(config("203.0.113.0/24"), policy)
    assert reach is not None
    assert not reach.resolves("api.example.org")
    assert not Reach((), (), ()).resolves("api.example.org")
