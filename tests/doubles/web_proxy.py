"""An HTTP proxy that knows a few hosts by name and refuses the rest, as the daemon's does.

It follows RFC 9110 section 9.3.6 (CONNECT) and RFC 9112 section 3.2.2 (absolute-form), one
request for each connection, and records what it was asked for. A refusal carries the field
`X-Mas-Sandbox-Rule`. `ProxiedHost` joins it to a toolrunner's streams of service `egress`.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit

from mas_sandbox.wire.frames import CHUNK, Kind

from .host import Host, Opened


class WebProxy:
    """`hosts`: (name, port) -> the port of 127.0.0.1 that stands for it. A context."""

    def __init__(self, hosts: dict[tuple[str, int], int]) -> None:
        self.hosts = hosts
        self.asked: list[str] = []
        """`METHOD target` of each request."""
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = self._listening.getsockname()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
            self.asked.append(f"{method} {target}")
            connect = method == "CONNECT"
            parts = urlsplit(f"//{target}" if connect else target)
            there = self.hosts.get((parts.hostname or "", parts.port or 80))
            if there is None:
                client.sendall(_refusal(parts.netloc))
                return
            with socket.create_connection(("127.0.0.1", there), 20) as server:
                if connect:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                else:
                    origin_form = target[target.index(parts.netloc) + len(parts.netloc) :] or "/"
                    server.sendall(head.replace(target.encode(), origin_form.encode(), 1))
                _join(client, server)


def _refusal(authority: str) -> bytes:
    body = f"{authority} is not among the hosts that the policy allows\n".encode()
    fields = b"X-Mas-Sandbox-Rule: network.hosts\r\nContent-Type: text/plain\r\n"
    return b"HTTP/1.1 403 Forbidden\r\n%bContent-Length: %d\r\n\r\n%b" % (fields, len(body), body)


def _join(one: socket.socket, other: socket.socket) -> None:
    back = threading.Thread(target=_copy, args=(other, one), daemon=True)
    back.start()
    _copy(one, other)
    back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class ProxiedHost(Host):
    """A toolrunner whose way out leads to a proxy. Both are served while frames are awaited."""

    _proxy: tuple[str, int]

    def lead_to(self, proxy: WebProxy) -> None:
        self._proxy = proxy.address
        self._ends: dict[int, socket.socket] = {}
        self.answers = self._answer

    def _answer(self, opened: Opened, kind: Kind) -> None:
        if kind is Kind.OPEN:
            end = self._ends[opened.number] = socket.create_connection(self._proxy, 20)
            self.watched[end] = lambda: self._back(opened, end)
            return
        end = self._ends[opened.number]
        data, opened.received = opened.received, bytearray()
        if opened.over:
            self._forget(end)
        elif kind is Kind.CREDIT and not opened.host_ended:
            self.watched[end] = lambda: self._back(opened, end)
        elif kind is Kind.DATA and end.fileno() >= 0:
            end.sendall(data)
            if opened.ended:
                end.shutdown(socket.SHUT_WR)

    def _back(self, opened: Opened, end: socket.socket) -> None:
        if not opened.credit.available:
            del self.watched[end]  # until there is credit again
            return
        data = end.recv(min(CHUNK, opened.credit.available))
        opened.credit.spend(len(data))
        self.send(Kind.DATA, opened.number, data)
        if not data:
            opened.host_ended = True
            self._forget(end)

    def _forget(self, end: socket.socket) -> None:
        self.watched.pop(end, None)
        end.close()
