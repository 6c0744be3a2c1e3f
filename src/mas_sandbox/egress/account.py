"""What one sandbox may use of the network, has used, and has open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from mas_sandbox.policy.grants import NetworkPolicy

from .bucket import Bucket
from .reach import Reach
from .refusal import Outcome, Refused

MAX_CONNECTIONS = 64
MAX_MB = 1024
"""What a policy that mentions neither allows."""


class Layer:
    """One policy in force: the sandbox's, or that of a call that runs."""

    def __init__(self, network: NetworkPolicy | None, bandwidth_kb_s: int | None) -> None:
        asked = network or NetworkPolicy()
        self.reach = Reach(network)
        self.rate = None if bandwidth_kb_s is None else bandwidth_kb_s * 1024
        self.max_connections = asked.max_connections or MAX_CONNECTIONS
        self.bytes_left = (asked.max_mb or MAX_MB) * 1024 * 1024


class Connected(Protocol):
    """What the account can do to a connection that is open."""

    def judge(self, layer: Layer) -> object:
        """Raises Refused where `layer` does not allow it."""

    def cut(self, refusal: Refused) -> None:
        """End it at once."""


class Account:
    """The layers in force, each of which has to allow a connection, and their counters."""

    def __init__(self, sandbox: Layer) -> None:
        self.layers = [sandbox]
        self.bucket = Bucket()
        self.bytes_in = self.bytes_out = self.connections = 0
        self._open: set[Connected] = set()
        self._set_rate()

    @contextmanager
    def narrowed(self, layer: Layer) -> Iterator[None]:
        """One more layer. What is open and not allowed by it is cut."""
        self.layers.append(layer)
        self._set_rate()
        try:
            for connection in list(self._open):
                try:
                    connection.judge(layer)
                except Refused as refusal:
                    connection.cut(refusal)
            yield
        finally:
            self.layers.remove(layer)
            self._set_rate()

    @contextmanager
    def opened(self, connection: Connected) -> Iterator[None]:
        """Hold one of the places. Raises Refused where all are taken."""
        places = min(layer.max_connections for layer in self.layers)
        if len(self._open) >= places:
            raise Refused(
                Outcome.TOO_MANY,
                "network.max_connections",
                f"{places} connections are open already; close some, "
                "or raise network.max_connections",
            )
        self._open.add(connection)
        try:
            yield
        finally:
            self._open.discard(connection)

    def refuse_exhausted(self) -> None:
        """Raises Refused once more than a layer's bytes are used up."""
        if any(layer.bytes_left < 0 for layer in self.layers):
            raise Refused(
                Outcome.TOO_MANY,
                "network.max_mb",
                "the bytes that network.max_mb allows are used up; raise it",
            )

    async def spend(self, count: int) -> None:
        """Account for bytes that pass, and wait for the bandwidth.

        Raises Refused when they are more than a layer has left; then everything is cut.
        """
        for layer in self.layers:
            layer.bytes_left -= count
        try:
            self.refuse_exhausted()
        except Refused as refusal:
            for connection in self._open:
                connection.cut(refusal)
            raise
        await self.bucket.take(count)

    def _set_rate(self) -> None:
        rates = [layer.rate for layer in self.layers if layer.rate is not None]
        self.bucket.rate = min(rates, default=None)
