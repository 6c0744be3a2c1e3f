"""The sandbox's end of a connection: what it has sent, read ahead and given back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from .refusal import Outcome, Refused


class ByteStream(Protocol):
    """What the channel hands over for each connection. Reads and writes raise
    ConnectionResetError once the sandbox's end is gone."""

    async def read(self, limit: int = ..., /) -> bytes: ...
    async def write(self, data: bytes, /) -> None: ...
    def write_eof(self) -> None: ...
    def reset(self) -> None: ...


PIECE = 64 * 1024
HEAD_S = 10.0
"""How long a client may take to say whom it wants, and to begin TLS or a request."""


class Client:
    """A stream whose beginning can be looked at before it is taken."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.ahead = b""

    async def more(self) -> bytes:
        """Read on; the new bytes are appended to `ahead`. b"" at the end."""
        data = await self.stream.read(PIECE)
        self.ahead += data
        return data

    async def exactly(self, count: int) -> bytes:
        """Take `count` bytes. Raises EOFError where the stream ends before."""
        while len(self.ahead) < count:
            if not await self.more():
                raise EOFError
        data, self.ahead = self.ahead[:count], self.ahead[count:]
        return data

    async def take(self, limit: int = PIECE) -> bytes:
        """The next bytes, those ahead first; b"" at the end."""
        if not self.ahead:
            return await self.stream.read(limit)
        data, self.ahead = self.ahead[:limit], self.ahead[limit:]
        return data


@asynccontextmanager
async def promptly() -> AsyncIterator[None]:
    """Raises Refused where what is inside waits for the client longer than `HEAD_S`."""
    try:
        async with asyncio.timeout(HEAD_S):
            yield
    except TimeoutError:
        raise Refused(
            Outcome.TOO_SLOW, "slow client", f"what decides has to be sent within {HEAD_S:.0f} s"
        ) from None
