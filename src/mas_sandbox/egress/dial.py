"""One TCP connection to a literal address."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

from .host import Address
from .refusal import Outcome, Refused

DIAL_S = 5.0

Connect = Callable[[Address, int], Awaitable[socket.socket]]
"""Opens a TCP connection to a literal address. Raises OSError."""


async def tcp_connect(address: Address, port: int) -> socket.socket:
    """A `Connect`; the socket does not block."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
    except BaseException:
        connection.close()
        raise
    return connection


async def dial(connect: Connect, address: Address, port: int) -> socket.socket:
    """Raises Refused where nobody answers within `DIAL_S`."""
    try:
        async with asyncio.timeout(DIAL_S):
            return await connect(address, port)
    except TimeoutError:
        raise Refused(
            Outcome.NO_ANSWER, "dial", f"port {port} of that host does not answer; try again later"
        ) from None
    except OSError as error:
        refused = error.errno == errno.ECONNREFUSED
        raise Refused(
            Outcome.REFUSED_THERE if refused else Outcome.UNREACHABLE,
            "dial",
            f"port {port} of that host cannot be reached: {error.strerror or 'no connection'}",
        ) from error
