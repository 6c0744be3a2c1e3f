"""A sandbox behind the real door, and ways to send it requests that no client would write."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doubles.http_door import Door, http_door
from doubles.live_runtime import LiveGuest, LiveRuntime
from doubles.raw_server import Answer, RawServer, raw_server
from mas_sandbox.policy.file import PolicyFile

TOKEN = "t" * 32
BEARER = f"authorization: Bearer {TOKEN}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@dataclass
class Answered:
    """`headers`: names in lower case, with every value of each."""

    status: int
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str:
        (value,) = self.headers[name]
        return value


class Place:
    """`server`: a server that its sandbox reaches; `prefix`: where that is below the daemon."""

    def __init__(self, door: Door, guest: LiveGuest, server: RawServer, sandbox_id: str) -> None:
        self.door = door
        self.guest = guest
        self.server = server
        self.id = sandbox_id
        self.url = f"/v1/sandboxes/{sandbox_id}"
        self.prefix = f"{self.url}/ports/{server.port}"
        self.host = f"{server.port}-{sandbox_id.replace('_', '-')}.ports.test"

    def anew(self) -> Place:
        """As it was at first, for the next test."""
        self.server.answer, self.server.eager = OK, False
        self.server.heard.clear()
        self.guest.listening = []
        return self

    def ask(self, line: str, *headers: str, host: str = "localhost", body: bytes = b"") -> Answered:
        """Send one request: `GET /path` and header lines, as they are."""
        lines = [f"{line} HTTP/1.1", f"host: {host}", "connection: close", *headers]
        if body and not any(each.startswith("transfer-encoding") for each in headers):
            lines.append(f"content-length: {len(body)}")
        head = "\r\n".join(lines) + "\r\n\r\n"
        return parsed(self.door.send(head.encode("latin-1") + body))

    def share(self, *, port: int | None = None, **body: Any) -> dict[str, Any]:
        content = json.dumps(body).encode()
        line = f"POST {self.url}/ports/{port or self.server.port}/share"
        answer = self.ask(line, BEARER, "content-type: application/json", body=content)
        shared: dict[str, Any] = json.loads(answer.body)
        return shared

    def heard(self) -> tuple[str, dict[str, list[str]], bytes]:
        """The first line, headers and body of the last request that reached the server."""
        head, _, body = self.server.heard[-1].partition(b"\r\n\r\n")
        line, *rest = head.decode("latin-1").split("\r\n")
        return line, fields(rest), body


def fields(lines: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.lower(), []).append(value.strip())
    return found


def parsed(answer: bytes) -> Answered:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *rest = head.decode("latin-1").split("\r\n")
    found = re.fullmatch(r"HTTP/1\.1 (\d{3}).*", line)
    assert found, answer
    return Answered(int(found[1]), fields(rest), body)


@contextmanager
def ports_place(
    directory: Path, answer: Answer = OK, token: str | None = TOKEN, file: PolicyFile | None = None
) -> Iterator[Place]:
    runtime = LiveRuntime()
    with (
        http_door(directory, runtime, token=token, file=file) as door,
        raw_server(answer) as server,
    ):
        head = f"POST /v1/sandbox/create HTTP/1.1\r\nhost: localhost\r\n{BEARER}\r\n"
        head += "content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
        found = re.search(r"sb_[0-9a-f]{32}", parsed(door.send(head.encode())).body.decode())
        assert found
        yield Place(door, runtime.guests[-1], server, found[0])
