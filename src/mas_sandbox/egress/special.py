"""Addresses that are not the public Internet's, by an explicit table.

From IANA's special-purpose registries (RFC 6890) for IPv4 and IPv6, and the addresses at
which clouds answer their own machines. `ipaddress.is_global` is not used: it has been wrong
for several of these, and changes from one release of Python to the next.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from .host import Address

_METADATA = "a cloud's metadata service"

_TABLE: tuple[tuple[str, str], ...] = (
    # Inside other blocks of this table, or in public space; named for the audit log.
    ("169.254.169.254/32", _METADATA),  # AWS, Azure, Google, OpenStack and others
    ("169.254.169.253/32", _METADATA),  # AWS, its resolver
    ("169.254.170.2/32", _METADATA),  # AWS, credentials of containers
    ("169.254.170.23/32", _METADATA),  # AWS, credentials of pods
    ("169.254.0.23/32", _METADATA),  # Tencent
    ("100.100.100.200/32", _METADATA),  # Alibaba
    ("168.63.129.16/32", _METADATA),  # Azure, a public address
    ("192.0.0.192/32", _METADATA),  # Oracle
    ("fd00:ec2::/32", _METADATA),  # AWS
    ("fd20:ce::/32", _METADATA),  # Google
    ("fd00:42::/32", _METADATA),  # Scaleway
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private use"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private use"),
    ("192.0.0.0/24", "protocol assignments"),
    ("192.0.2.0/24", "documentation"),
    ("192.31.196.0/24", "AS112"),
    ("192.52.193.0/24", "AMT relay"),
    ("192.88.99.0/24", "6to4 relay"),
    ("192.168.0.0/16", "private use"),
    ("192.175.48.0/24", "AS112"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("255.255.255.255/32", "broadcast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::ffff:0:0/96", "IPv4-mapped"),
    ("::ffff:0:0:0/96", "IPv4-translated"),
    ("::/96", "IPv4-compatible"),
    ("64:ff9b:1::/48", "NAT64 of local use"),
    ("100::/64", "discard-only"),
    ("2001::/32", "Teredo"),
    ("2001:2::/48", "benchmarking"),
    ("2001:10::/28", "ORCHID"),
    ("2001:20::/28", "ORCHIDv2"),
    ("2001:db8::/32", "documentation"),
    ("2001::/23", "protocol assignments"),
    ("2002::/16", "6to4"),
    ("2620:4f:8000::/48", "AS112"),
    ("3ffe::/16", "reserved"),
    ("3fff::/20", "documentation"),
    ("5f00::/16", "segment routing"),
    ("fc00::/7", "unique local"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
_RANGES = [(ip_network(block), name) for block, name in _TABLE]
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_ENDING_IN_IPV4 = frozenset(
    int(IPv6Address(prefix)) >> 32
    for prefix in ("64:ff9b::", "64:ff9b:1::", "::", "::ffff:0:0", "::ffff:0:0:0")
)
_DISCARD_PORT = 9
_NO_WAY = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT})
"""Nothing is reached there, and the dial will say so; any other failure is taken for yes."""


def special_range(address: Address) -> str | None:
    """The name of the special range that holds `address`, None for a public one.

    An address that stands for an IPv4 one is special where that is.
    """
    inner = embedded(address)
    within = special_range(inner) if inner is not None else None
    for block, name in _RANGES:
        if address in block:
            return f"{name}, of {within}" if within else name
    if isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST:
        return None
    if address in _NAT64:
        return f"NAT64, of {within}" if within else None
    return "reserved"


def special_blocks() -> list[IPv4Network]:
    """The IPv4 part of the table; some lie in others."""
    return [block for block, _ in _RANGES if isinstance(block, IPv4Network)]


def embedded(address: Address) -> IPv4Address | None:
    """The IPv4 address that a translator or a tunnel makes of an IPv6 one."""
    if isinstance(address, IPv4Address):
        return None
    if address.sixtofour is not None:  # RFC 3056
        return address.sixtofour
    if address.teredo is not None:  # RFC 4380
        return address.teredo[1]
    number = int(address)
    return IPv4Address(number & 0xFFFFFFFF) if number >> 32 in _ENDING_IN_IPV4 else None


def is_this_host(address: Address) -> bool:
    """Whether packets to `address` never leave this host, as to a public address of its own.

    Connecting a UDP socket asks the kernel for its route and sends nothing.
    """
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), _DISCARD_PORT))
            return str(probe.getsockname()[0]) == str(address)
    except OSError as error:
        return error.errno not in _NO_WAY
