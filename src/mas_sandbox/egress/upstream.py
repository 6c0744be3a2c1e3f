"""The network's end of a connection that is open: everything that passes is counted here."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress

from .account import Account
from .client import PIECE

IDLE_S = 300.0
"""A connection over which nothing passes for so long is ended."""

_RESET = struct.pack("ii", 1, 0)
"""Lingering for no time: closing resets (socket(7))."""


class Upstream:
    """Reads and writes raise OSError when the other end resets, Refused at the cap."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, account: Account
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._account = account
        self.received = 0
        self.idle = asyncio.timeout(IDLE_S)
        """To be entered around everything that is done with it."""

    @classmethod
    async def over(cls, connection: socket.socket, account: Account) -> Upstream:
        """Takes the socket over."""
        try:
            streams = await asyncio.open_connection(sock=connection, limit=PIECE)
        except BaseException:
            connection.close()
            raise
        return cls(*streams, account)

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        data = await self._reader.read(self._account.bucket.piece)
        self._touch()
        if data:
            self.received += len(data)
            await self._account.spend(len(data))
            self._account.bytes_in += len(data)
        return data

    async def write(self, data: bytes) -> None:
        piece = self._account.bucket.piece
        for start in range(0, len(data), piece):
            part = data[start : start + piece]
            await self._account.spend(len(part))
            self._account.bytes_out += len(part)
            self._writer.write(part)
            await self._writer.drain()
            self._touch()

    def write_eof(self) -> None:
        """End our direction."""
        if not self._writer.is_closing():
            self._writer.write_eof()

    def close(self, *, abort: bool) -> None:
        """`abort`: with a reset, so that what was cut off is not taken for complete."""
        if abort:
            connection = self._writer.get_extra_info("socket")
            with suppress(OSError):  # it may be closed already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()

    def _touch(self) -> None:
        if not self.idle.expired():  # then it may still run for a moment
            self.idle.reschedule(asyncio.get_running_loop().time() + IDLE_S)
