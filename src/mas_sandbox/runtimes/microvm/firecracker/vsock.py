"""The host's end of Firecracker's vsock: a Unix socket with a one-line handshake.

The host sends `CONNECT <port>\\n`; Firecracker answers `OK <port of the host's end>\\n`
when the guest has accepted, and closes the connection when nobody listens there. What
follows the line is the guest's (Firecracker, docs/vsock.md).
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .unix import connect_unix, readable

ATTEMPT_S = 1.0
"""A guest that has not answered by then lost the request (its driver was not up, or was
being reset after a snapshot): it is asked again, from another port."""
FIRST_PAUSE_S, LAST_PAUSE_S = 0.004, 0.05
_LINE_BYTES = 32
_OK = re.compile(rb"OK [0-9]{1,10}\n")


async def connect_vsock(
    path: Path, port: int, timeout_s: float, ended: Callable[[], bool] = lambda: False
) -> socket.socket:
    """A connected, non-blocking stream to `port` in the guest, with bytes waiting in it.

    The toolrunner speaks first; a connection that ends before it did is made again,
    because a restored guest resets the ones it accepts too early.

    Raises SandboxError `sandbox_crash` when nobody spoke within `timeout_s`, the monitor
    has `ended`, or the answer is not Firecracker's.
    """
    pause, why = FIRST_PAUSE_S, "the guest did not answer"
    try:
        async with asyncio.timeout(timeout_s):
            while not ended():
                try:
                    return await _connect_once(path, port)
                except TimeoutError:
                    why = "the guest did not answer"
                except ConnectionResetError:
                    why = f"nobody listens on port {port} in the guest"
                except OSError as error:
                    why = f"{path}: {error.strerror}"
                await asyncio.sleep(pause)
                pause = min(pause * 2, LAST_PAUSE_S)
    except TimeoutError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH,
            f"no toolrunner behind the vsock within {timeout_s:g} s: {why}",
        ) from error
    raise SandboxError(ErrorCode.SANDBOX_CRASH, "Firecracker ended before its guest was up")


async def _connect_once(path: Path, port: int) -> socket.socket:
    end = await connect_unix(path)
    try:
        async with asyncio.timeout(ATTEMPT_S):
            await asyncio.get_running_loop().sock_sendall(end, b"CONNECT %d\n" % port)
            line = await _read_line(end)
        if not _OK.fullmatch(line):
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"{path} answered {line!r} to CONNECT, not OK: is it a Firecracker vsock?",
            )
        await _peek(end, 1)
    except BaseException:
        end.close()
        raise
    return end


async def _read_line(end: socket.socket) -> bytes:
    """One line, and not a byte of what follows it."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES:
        waiting = await _peek(end, _LINE_BYTES - len(line))
        line += end.recv(waiting.find(b"\n") + 1 or len(waiting))
    return line


async def _peek(end: socket.socket, size: int) -> bytes:
    """Up to `size` waiting bytes, left where they are; ConnectionResetError at the end."""
    while True:
        await readable(end)
        try:
            waiting = end.recv(size, socket.MSG_PEEK)
        except BlockingIOError:
            continue
        if not waiting:
            raise ConnectionResetError("closed")
        return waiting
