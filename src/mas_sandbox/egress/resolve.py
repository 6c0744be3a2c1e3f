"""Names to addresses, in the daemon, anew for every connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

from .host import Address, Host, plain
from .refusal import Outcome, Refused

RESOLVE_S = 10.0
AT_ONCE = 8
MAX_ADDRESSES = 8
"""Of one answer; the rest is not looked at, nor dialled."""

Resolver = Callable[[str], Awaitable[list[Address]]]
"""All addresses of a name, the preferred first. Raises OSError."""


async def system_resolver(name: str) -> list[Address]:
    """getaddrinfo(3), in a thread of its own.

    The loop's executor is not used: lookups of a sandbox's must not keep the rest of the
    daemon waiting for a thread, nor its end waiting for an answer.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[list[Address]] = loop.create_future()

    def settle(found: list[Address] | OSError) -> None:
        if answer.done():
            return
        if isinstance(found, OSError):
            answer.set_exception(found)
        else:
            answer.set_result(found)

    def look_up() -> None:
        found: list[Address] | OSError
        try:
            entries = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            found = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
        except OSError as error:
            found = error
        except UnicodeError as error:  # a label that the codec of host names refuses
            found = OSError(str(error))
        try:
            loop.call_soon_threadsafe(settle, found)
        except RuntimeError:
            return  # the loop has ended; nobody waits

    threading.Thread(target=look_up, name="egress-resolve", daemon=True).start()
    return await answer


class Lookups:
    """One sandbox's, a few at a time: a zone that answers slowly cannot pile threads up."""

    def __init__(self, resolve: Resolver) -> None:
        self._resolve = resolve
        self._places = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[list[Address]]] = set()

    async def addresses(self, host: Host) -> list[Address]:
        """What `host` may be dialled at, before vetting; never empty. Raises Refused."""
        if host.address is not None:
            return [host.address]
        lookup = asyncio.create_task(self._look_up(host.text))
        self._running.add(lookup)
        lookup.add_done_callback(self._done)
        try:
            async with asyncio.timeout(RESOLVE_S):
                # It cannot be stopped, and keeps its place until it ends by itself.
                found = await asyncio.shield(lookup)
        except TimeoutError:
            raise _unknown(host, Outcome.NO_ANSWER, "was not resolved in time; try again") from None
        except OSError as error:
            raise _unknown(host, Outcome.UNREACHABLE, "does not resolve; check it") from error
        addresses = list(dict.fromkeys(plain(address) for address in found))[:MAX_ADDRESSES]
        if not addresses:
            raise _unknown(host, Outcome.UNREACHABLE, "has no address")
        return addresses

    async def _look_up(self, name: str) -> list[Address]:
        async with self._places:
            return await self._resolve(name)

    def _done(self, lookup: asyncio.Task[list[Address]]) -> None:
        self._running.discard(lookup)
        if not lookup.cancelled():
            lookup.exception()  # seen, even where its caller has gone


def _unknown(host: Host, outcome: Outcome, problem: str) -> Refused:
    return Refused(outcome, "resolve", f"{host.text} {problem}")
