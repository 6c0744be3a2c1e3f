"""What is written down of every connection, made or refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Decision:
    """One for each dial, each refusal and each request of plain HTTP inside a tunnel.

    It is on disk before what it allows is done. All text is printable ASCII.
    """

    protocol: str  # "connect", "socks5", "http"; "" where the client said nothing readable
    host: str  # as canonicalised, "" where it could not be read
    port: int
    method: str = ""  # plain HTTP only, at most MAX_METHOD characters
    path: str = ""  # plain HTTP only, at most MAX_PATH characters, without the query
    address: str = ""  # the vetted address that is dialled
    allowed: bool = False
    rule: str = ""  # "network.hosts: *.example.org", "special range: loopback", "sni"
    reason: str = ""  # why not, and what to do


MAX_PATH = 512
MAX_METHOD = 32
