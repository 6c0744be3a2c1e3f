"""The host's side of Firecracker's vsock: a Unix socket with its handshake.

Follows Firecracker's docs/vsock.md (v1.10), "Host-Initiated Connections": the host
connects, writes `CONNECT <port>` and a newline, and reads `OK <number>` and a newline;
where nobody listens on the port, the connection is closed without a word. Behind it stands
a Unix socket in place of the guest's vsock port. Does not model connections that the guest
begins.
"""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Self


class VsockSocket:
    """Serves `path`; `ports`: vsock port -> the Unix socket behind it. A context."""

    def __init__(self, path: Path, ports: dict[int, Path]) -> None:
        self._ports = ports
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen()
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        for end in self._open:
            _shut(end)
        for thread in self._threads:
            thread.join(timeout=5)
        for end in [self._listening, *self._open]:
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self._listening.accept()
            except OSError:
                return
            self._open.append(caller)
            self._connect(caller)

    def _connect(self, caller: socket.socket) -> None:
        with caller.makefile("rb", buffering=0) as lines:
            word, _, port = lines.readline(64).strip().partition(b" ")
        guest = socket.socket(socket.AF_UNIX)
        self._open.append(guest)
        try:
            assert word == b"CONNECT"
            guest.connect(str(self._ports[int(port)]))
        except (KeyError, OSError):
            _shut(caller)
            return
        caller.sendall(b"OK 1073741824\n")
        for source, sink in ((caller, guest), (guest, caller)):
            thread = threading.Thread(target=_carry, args=(source, sink), daemon=True)
            self._threads.append(thread)
            thread.start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    _shut(sink)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # the other end was first
