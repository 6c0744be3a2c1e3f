"""A server on loopback that answers every connection with bytes that a test has written.

`heard`: what came in over each, in the order in which they came. It reads a head, and a body
of `content-length`, before it answers, a chunked one until its last chunk; `eager`: only the
head. It does not model: more than one request a connection.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = bytes | Callable[[socket.socket], None]


class RawServer:
    def __init__(self, listening: socket.socket, answer: Answer) -> None:
        self.port: int = listening.getsockname()[1]
        self.answer = answer
        self.eager = False
        self.heard: list[bytes] = []
        self._listening = listening

    def run(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connected,), daemon=True).start()

    def _serve(self, connected: socket.socket) -> None:
        with connected:
            self.heard.append(b"")
            index = len(self.heard) - 1
            while not self._whole(self.heard[index]) and (data := connected.recv(65536)):
                self.heard[index] += data
            try:
                if callable(self.answer):
                    self.answer(connected)
                else:
                    connected.sendall(self.answer)
            except OSError:
                return  # nobody waits for it any more

    def _whole(self, heard: bytes) -> bool:
        head, blank, body = heard.partition(b"\r\n\r\n")
        if not blank or self.eager:
            return bool(blank)
        if re.search(rb"(?i)\r\ntransfer-encoding:", head):
            return body.endswith(b"0\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        return len(body) >= (int(length[1]) if length else 0)


@contextmanager
def raw_server(answer: Answer) -> Iterator[RawServer]:
    """Listening until the context ends."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        made = RawServer(listening, answer)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        yield made
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)
