"""What a monitor and its guest write: read as it comes, kept within bounds.

A guest can write to its console for as long as it lives. What nobody reads fills a
pipe and what nobody bounds fills a disk, so everything is read here, and only the end
of it is kept.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

TAIL_BYTES = 16 * 1024
LOG_BYTES = 8 * 1024 * 1024
"""A log file that grew to this is set aside as `<name>.1`, and a new one begun."""


class LogFile:
    """A file that is appended to and never holds more than `LOG_BYTES`.

    Raises OSError when it cannot be opened; a disk that fills up later loses lines,
    not machines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def write(self, data: bytes) -> None:
        try:
            self._size += os.write(self._descriptor, data)
            if self._size >= LOG_BYTES:
                self.close()
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
        except OSError:
            return

    def close(self) -> None:
        os.close(self._descriptor)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size


class Output:
    """Reads a pipe for as long as it is open; keeps its tail, and copies it to a file."""

    def __init__(self, descriptor: int, file: LogFile | None = None) -> None:
        """`descriptor` is a pipe's reading end, and belongs to this object from now on."""
        self._descriptor = descriptor
        self._file = file
        self._tail = bytearray()
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self._read)

    def tail(self) -> str:
        """The last that was written, as printable text."""
        self._read()
        text = self._tail.decode("utf-8", "replace").replace("\r\n", "\n")
        return "".join(mark if mark.isprintable() or mark == "\n" else "?" for mark in text).strip()

    def close(self) -> None:
        """Read what is left, and let go. Safe to call twice."""
        if self._descriptor >= 0:
            self._read()
        self._release()

    def _read(self) -> None:
        """One bounded gulp: the event loop calls again while there is more."""
        if self._descriptor < 0:
            return
        try:
            data = os.read(self._descriptor, 64 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._release()
            return
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        if self._file is not None:
            self._file.write(data)

    def _release(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            if self._file is not None:
                self._file.close()
