"""Servers inside a sandbox, reached through the daemon's front door."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from place import BEARER, Place

PORT, NOBODYS = 8741, 8742
SERVER = """
import base64, hashlib, http.server
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.headers["Upgrade"]:
            return self.echo_one_message()
        self.answer((self.path + " " + str(self.headers["Authorization"])).encode())

    def do_PUT(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))

    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def echo_one_message(self):
        key = self.headers["Sec-WebSocket-Key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header(
            "Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        )
        self.end_headers()
        first, length = self.rfile.read(2)
        mask = self.rfile.read(4)
        text = bytes(b ^ mask[i % 4] for i, b in enumerate(self.rfile.read(length & 127)))
        self.wfile.write(bytes([first, len(text)]) + text + b"\\x88\\x02\\x0f\\xa0")
        self.rfile.read(6)
        self.close_connection = True

http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def server(place: Place) -> Iterator[Place]:
    """The sandbox, once a server listens in it."""
    place.start(argv=["python3", "-c", SERVER.replace("PORT", str(PORT))], tag="server")
    deadline = time.monotonic() + 60
    while PORT not in [each["port"] for each in ports(place)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    yield place
    place.client.delete(f"{place.url}/processes/server")


def ports(place: Place) -> list[dict[str, object]]:
    response = place.client.get(f"{place.url}/ports")
    assert response.status_code == 200, response.text
    found: list[dict[str, object]] = response.json()["ports"]
    return found


def websocket_url(place: Place, path: str) -> str:
    return f"ws://{place.client.base_url.netloc.decode()}{place.url}/{path}"


def test_what_listens_is_listed(server: Place) -> None:
    found = [each["address"] for each in ports(server) if each["port"] == PORT]
    assert found == ["127.0.0.1"]
    assert 3128 not in [each["port"] for each in ports(server)]


def test_requests_are_passed_on(server: Place) -> None:
    url = f"{server.url}/ports/{PORT}"
    assert server.client.get(f"{url}/a/b?c=d").text == "/a/b?c=d None"
    content = os.urandom(3_000_000)
    assert server.client.put(f"{url}/", content=content).content == content


def test_whoever_holds_a_ports_token_reaches_that_port(server: Place) -> None:
    shared = server.post(f"ports/{PORT}/share", {"expires_s": 60})
    with httpx2.Client(base_url=server.client.base_url, timeout=30) as stranger:
        assert stranger.get(shared["path"]).status_code == 401
        assert stranger.get(shared["url"]).text == "/ None"
        nobodys = shared["url"].replace(str(PORT), str(NOBODYS))
        assert stranger.get(nobodys).status_code == 401


def test_websockets_are_passed_on(server: Place) -> None:
    url = websocket_url(server, f"ports/{PORT}/")
    with connect(url, additional_headers=BEARER, compression=None) as socket:
        socket.send("hello")
        assert socket.recv(30) == "hello"
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(30)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 4000


def test_a_tunnel_is_a_connection(server: Place) -> None:
    url = websocket_url(server, f"tunnels/{PORT}")
    with connect(url, additional_headers=BEARER, compression=None) as socket:
        socket.send(b"GET /tunnelled HTTP/1.0\r\n\r\n")
        answer = b""
        while isinstance(piece := socket.recv(30), bytes) and piece:
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"/tunnelled None")


def test_where_nothing_listens_it_is_not_found(server: Place) -> None:
    response = server.client.get(f"{server.url}/ports/{NOBODYS}/")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    with pytest.raises(InvalidStatus) as refused:
        connect(websocket_url(server, f"tunnels/{NOBODYS}"), additional_headers=BEARER)
    assert refused.value.response.status_code == 404
