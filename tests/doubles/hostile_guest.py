"""A toolrunner that breaks the rules, byte by byte as a test tells it.

It follows wire/frames.py for what it does right (greeting, framing) and leaves the
rest to the test. It runs no tool.
"""

from __future__ import annotations

import asyncio
import socket

from mas_sandbox.wire.frames import FROM_HOST, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Hello


class HostileGuest:
    """One end of a socket pair; the other is the host's channel."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._parser = FrameParser(FROM_HOST)
        self._frames: list[tuple[Kind, int, bytes]] = []

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def frame(self, kind: Kind, stream: int, payload: bytes = b"") -> None:
        await self.send(encode(kind, stream, payload))

    async def receive(self, kind: Kind) -> tuple[int, bytes]:
        """The next frame of this kind: (stream, payload). Others are kept for later."""
        while True:
            for index, (found, stream, payload) in enumerate(self._frames):
                if found is kind:
                    del self._frames[index]
                    return stream, payload
            data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 16)
            if not data:
                raise EOFError("the host closed the channel")
            self._frames += self._parser.feed(data)

    async def greet(self) -> None:
        hello = Hello(protocol=1, pid=2, python="3.11.2", tools=["bash"], controls=[])
        await self.frame(Kind.HELLO, 0, hello.encode())
        await self.receive(Kind.WELCOME)
        await self.frame(Kind.READY, 0)

    async def closed(self) -> bool:
        """Whether the host has dropped the connection."""
        try:
            while True:
                await self.receive(Kind.PONG)
        except (EOFError, ConnectionResetError):
            return True

    def close(self) -> None:
        self._socket.close()
