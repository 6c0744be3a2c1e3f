"""The addresses of the links between host and machines: two for each, in a /30 of their own."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .programs import Route

PREFIX = 30


@dataclass(frozen=True, slots=True)
class Addresses:
    """`gateway`: the host's, where the resolver is; `guest`: the machine's."""

    network: IPv4Network

    @property
    def gateway(self) -> IPv4Address:
        return self.network[1]

    @property
    def guest(self) -> IPv4Address:
        return self.network[2]


class Subnet:
    """Hands out links of one block, each as late again as can be: what remembers a machine
    by its address, such as connection tracking, has forgotten it by then."""

    def __init__(self, block: str) -> None:
        self._block = IPv4Network(block)
        self._count = 1 << (PREFIX - self._block.prefixlen)
        # Daemons begin at different places; `taken` is what keeps them apart.
        self._next = secrets.randbelow(self._count)

    def take(self, taken: Iterable[IPv4Network]) -> Addresses:
        """A link beside what is taken. Raises SandboxError when there is none."""
        near = [block for block in taken if block.overlaps(self._block)]
        for _ in range(self._count):
            first = int(self._block[0]) + 4 * (self._next % self._count)
            self._next += 1
            link = IPv4Network((first, PREFIX))
            if not any(block.overlaps(link) for block in near):
                return Addresses(link)
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"network.subnet {self._block} has no address left that this host does not route "
            "already; name a block that nothing else uses",
        )


def routed(routes: list[Route]) -> list[IPv4Network]:
    """What there are routes to, the default ones apart."""
    return [IPv4Network(route["dst"]) for route in routes if route["dst"] != "default"]
