"""Connecting to a Unix socket, wherever it is."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

MAX_PATH = 107
"""What fits `sun_path` with its NUL (unix(7)); deeper ones go through their directory."""


async def connect_unix(path: Path) -> socket.socket:
    """A connected, non-blocking stream socket. Raises OSError as connect(2) does."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        if len(os.fsencode(path)) <= MAX_PATH:
            await asyncio.get_running_loop().sock_connect(end, str(path))
        else:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                near = f"/proc/self/fd/{directory}/{path.name}"
                await asyncio.get_running_loop().sock_connect(end, near)
            finally:
                os.close(directory)
    except BaseException:
        end.close()
        raise
    return end


async def readable(end: socket.socket) -> None:
    """Wait until there is something to read, or the end of it."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(end, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(end)
