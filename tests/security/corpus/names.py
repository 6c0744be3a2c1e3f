"""A name server of the test's, on loopback of the test's own network namespace.

It follows RFC 1035 for questions of type A over UDP, one in each datagram; of any other type
there is no record, and any other name does not exist.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Self


class NameServer:
    """`answers`: for each name one address for each question in turn, the last one for all that
    follow. `asked`: every question, as it came. A context."""

    def __init__(self, answers: Mapping[str, list[str]]) -> None:
        self.answers = {name: list(each) for name, each in answers.items()}
        self.asked: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # it is not connected; whoever waits for it wakes all the same
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                question, asker = self._socket.recvfrom(512)
                if not question:
                    return
                self._socket.sendto(self._answer(question), asker)

    def _answer(self, question: bytes) -> bytes:
        name, end = _name(question, 12)
        kind = question[end : end + 2]
        self.asked.append(name)
        known = self.answers.get(name.lower())
        body = question[12 : end + 4]
        head = question[:2] + (b"\x81\x80" if known else b"\x81\x83") + b"\0\1"
        if known is None or kind != b"\0\1":
            return head + b"\0\0\0\0\0\0" + body
        address = known.pop(0) if len(known) > 1 else known[0]
        record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address)
        return head + b"\0\1\0\0\0\0" + body + record


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("latin-1"))
        at += 1 + length
    return ".".join(labels), at + 1
