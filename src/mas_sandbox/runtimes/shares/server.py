"""Serves host directories to one machine: FUSE requests in, answers out, over streams.

Requests are read on the event loop and answered in threads of the share's own, a few at
a time, that have become the directory's owner; what they open is beneath its root.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mas_sandbox.wire.frames import ProtocolError

from ..base import ControlStatus, SandboxSpec
from . import kernel
from .opening import OpenedDirectory, open_directories
from .operations import Operations
from .protocol import Request, take_request
from .throttle import Throttle

if TYPE_CHECKING:
    from ..channel import Channel
    from ..streams import GuestStream

THREADS = 4
"""Of each share: how many of its requests wait for the host's disk at once."""
IN_FLIGHT = 8
"""How many are held in memory at once, a MiB each at most; the rest stay in the guest."""
CLOSE_S = 2.0
"""How long the end of a sandbox waits for a disk."""


def serve_directories(spec: SandboxSpec, protected: Iterable[Path]) -> FileServer:
    """Open what the spec mounts. `protected`: the daemon's own directories.

    Raises SandboxError, `invalid_request` as `open_directories` does.
    """
    with ExitStack() as undo:
        opened = open_directories(spec.mounts, protected, undo)
        server = FileServer(opened, Throttle(spec.io_mb_s, spec.iops))
        undo.pop_all()  # they are the server's to close now
    return server


def shares_status() -> ControlStatus:
    """Whether directories can be opened safely on this host."""
    try:
        os.close(kernel.open_without_links("/", os.O_RDONLY | os.O_DIRECTORY))
    except (OSError, AttributeError):
        return ControlStatus(False, "FUSE over the channel", "use Linux 5.6 or newer")
    return ControlStatus(True, "FUSE over the channel, to a file server in the daemon")


class FileServer:
    """The shares of one machine. Takes the descriptors over."""

    def __init__(self, opened: Sequence[OpenedDirectory], throttle: Throttle) -> None:
        self._shares = [_Share(each, throttle) for each in opened]

    @property
    def mounts(self) -> list[tuple[str, str]]:
        """What the guest is told, in the order of the services' numbers."""
        return [
            (share.mount.path, "rw" if share.mount.writable else "ro") for share in self._shares
        ]

    def serve(self, channel: Channel) -> None:
        for number, share in enumerate(self._shares):
            channel.serve(f"share/{number}", share.serve)

    async def close(self) -> None:
        """Close every file. Nobody may be served any more."""
        loop = asyncio.get_running_loop()
        closing = [loop.run_in_executor(None, share.close) for share in self._shares]
        if closing:  # a disk that never answers keeps its own thread, and nobody else
            await asyncio.wait(closing, timeout=CLOSE_S)


class _Share:
    def __init__(self, opened: OpenedDirectory, throttle: Throttle) -> None:
        self.mount = opened.mount
        self._root = opened.descriptor
        self._throttle = throttle
        root = os.geteuid() == 0
        owner = (opened.user, opened.group) if root else (os.geteuid(), os.getegid())
        self._operations = Operations(
            opened.descriptor, writable=opened.mount.writable, owner=owner[0], group=owner[1]
        )
        become = owner if root else None
        self._threads = ThreadPoolExecutor(THREADS, "share", _prepare_thread, (become,))
        self._served = False

    async def serve(self, stream: GuestStream) -> None:
        """Answer until the guest ends. Raises ProtocolError where it breaks the rules."""
        if self._served:
            raise ProtocolError("a second stream for the same share")
        self._served = True
        buffer = bytearray()
        room, writing = asyncio.Semaphore(IN_FLIGHT), asyncio.Lock()
        try:
            async with asyncio.TaskGroup() as answers:
                while data := await stream.read():
                    buffer += data
                    while (request := take_request(buffer)) is not None:
                        await self._throttle.pay(request)
                        await room.acquire()
                        answers.create_task(self._answer(request, stream, writing, room))
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    def close(self) -> None:
        """Wait for the threads, then close what they used."""
        self._threads.shutdown(cancel_futures=True)
        self._operations.close()
        os.close(self._root)

    async def _answer(
        self, request: Request, stream: GuestStream, writing: asyncio.Lock, room: asyncio.Semaphore
    ) -> None:
        loop = asyncio.get_running_loop()
        try:
            reply = await loop.run_in_executor(self._threads, self._operations.answer, request)
            if reply:
                async with writing:
                    await stream.write(reply)
        finally:
            room.release()


def _prepare_thread(owner: tuple[int, int] | None) -> None:
    kernel.own_umask()
    if owner is not None:
        kernel.become(*owner)
