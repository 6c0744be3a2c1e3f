"""The way out of one sandbox: everything that its proxy port accepts ends up here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

from mas_sandbox.policy.grants import NetworkPolicy

from .account import Account, Layer
from .client import ByteStream
from .connection import Connection
from .decision import Decision
from .dial import Connect, tcp_connect
from .resolve import Lookups, Resolver, system_resolver


class Session:
    """`network`: the sandbox's policy; None reaches nothing.

    `bandwidth_kb_s`: KiB a second, both directions of all connections together.
    `record`: awaited with every decision before what it allows is done; where it raises,
    that is not done.
    """

    def __init__(
        self,
        network: NetworkPolicy | None,
        bandwidth_kb_s: int | None,
        record: Callable[[Decision], Awaitable[None]],
        *,
        resolve: Resolver = system_resolver,
        connect: Connect = tcp_connect,
    ) -> None:
        self._account = Account(Layer(network, bandwidth_kb_s))
        self._record = record
        self._lookups = Lookups(resolve)
        self._connect = connect

    def narrowed(
        self, network: NetworkPolicy | None, bandwidth_kb_s: int | None
    ) -> AbstractContextManager[None]:
        """While a call with a policy of its own runs: `network` is that call's whole policy,
        as narrowed from the sandbox's, so None reaches nothing here too.

        A connection must be allowed by the sandbox's policy and by every one that is
        active; one that is open and is not allowed any more is reset.
        """
        return self._account.narrowed(Layer(network, bandwidth_kb_s))

    async def serve(self, stream: ByteStream) -> None:
        """Handle one connection; the bytes are what the client wrote to the proxy port.

        Raises what `record` raises, SandboxError for its OSError; the stream is then to be reset.
        """
        await Connection(stream, self._account, self._lookups, self._connect, self._record).run()

    @property
    def bytes_in(self) -> int:
        """From the network to the sandbox."""
        return self._account.bytes_in

    @property
    def bytes_out(self) -> int:
        """From the sandbox to the network."""
        return self._account.bytes_out

    @property
    def connections(self) -> int:
        """How many were made, in all."""
        return self._account.connections
