"""WebSockets to a server inside, and tunnels: messages and bytes, both ways, to the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol
from websockets.utils import accept_key

from doubles.ports_place import BEARER, TOKEN, Place, ports_place
from mas_sandbox.server.http import ports_socket
from mas_sandbox.server.live import ports

MIB = 1024 * 1024
HEADERS = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def shared_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ports_place(tmp_path_factory.mktemp("daemon")) as made:
        yield made


@pytest.fixture
def place(shared_place: Place) -> Place:
    return shared_place.anew()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Place]:
    """One that a test may end."""
    with ports_place(tmp_path) as made:
        yield made


@contextmanager
def websocket_server(talk: Callable[[ServerConnection], None], **options: Any) -> Iterator[int]:
    """A server that talks so to whoever comes; its port."""
    with serve(talk, "127.0.0.1", 0, compression=None, **options) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.socket.getsockname()[1]
        server.shutdown()
        thread.join(5)


def dial(place: Place, path: str, **options: Any) -> ClientConnection:
    options.setdefault("additional_headers", HEADERS)
    url = f"ws://127.0.0.1:{place.door.port}{path}"
    return connect(url, compression=None, max_size=None, **options)


def echo(server: ServerConnection) -> None:
    for message in server:
        server.send(message)


def quiet(place: Place) -> None:
    deadline = time.monotonic() + 10
    while place.guest.streams:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_messages_go_both_ways_as_what_they_are(place: Place) -> None:
    with (
        websocket_server(echo) as port,
        dial(place, f"{place.url}/ports/{port}/chat?a=1") as client,
    ):
        for message in ("text ü", b"\x00\xff", "", b"", os.urandom(200_000), "x" * 200_000):
            client.send(message)
            assert client.recv(10) == message
        client.send(["in ", "three ", "parts"])
        assert client.recv(10) == "in three parts"
    quiet(place)


def test_the_handshake_is_the_servers_less_what_is_ours(place: Place) -> None:
    seen: list[Request] = []

    def look(server: ServerConnection, request: Request) -> None:
        seen.append(request)

    def add(server: ServerConnection, request: Request, response: Response) -> None:
        response.headers["Set-Cookie"] = "a=1; Path=/; Domain=x"
        response.headers["X-Own"] = "1"

    protocols = [Subprotocol("one"), Subprotocol("two")]
    with websocket_server(
        echo, process_request=look, process_response=add, subprotocols=protocols[1:]
    ) as port:
        path = f"{place.url}/ports/{port}"
        with dial(place, f"{path}/a%20b?c=%41", subprotocols=protocols) as client:
            assert client.subprotocol == "two"
            assert client.response
            assert client.response.headers["set-cookie"] == f"a=1; Path={path}/"
            assert client.response.headers["x-own"] == "1"
    (request,) = seen
    assert request.path == "/a%20b?c=%41"
    assert request.headers["host"] == f"localhost:{port}"
    assert request.headers["x-forwarded-prefix"] == path
    assert "authorization" not in request.headers
    assert request.headers.get_all("sec-websocket-version") == ["13"]


@pytest.mark.parametrize(("code", "reason"), [(4321, "its own"), (1000, ""), (1013, "later")])
def test_the_servers_close_is_the_clients(place: Place, code: int, reason: str) -> None:
    with (
        websocket_server(lambda server: server.close(code, reason)) as port,
        dial(place, f"{place.url}/ports/{port}/") as client,
        pytest.raises(ConnectionClosed) as closed,
    ):
        client.recv(10)
    assert closed.value.rcvd
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def test_the_clients_close_is_the_servers(place: Place) -> None:
    codes: list[tuple[int | None, str | None]] = []

    def talk(server: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            server.recv()
        codes.append((server.close_code, server.close_reason))

    with websocket_server(talk) as port:
        with dial(place, f"{place.url}/ports/{port}/") as client:
            client.close(4000, "bye")
        with dial(place, f"{place.url}/ports/{port}/") as client:
            client.socket.shutdown(socket.SHUT_RDWR)
        quiet(place)
    assert codes[0] == (4000, "bye")
    assert len(codes) == 2


def refusal(place: Place, path: str, **options: Any) -> tuple[int, bytes]:
    with pytest.raises(InvalidStatus) as refused:
        dial(place, path, **options)
    response = refused.value.response
    return response.status_code, response.body


def test_a_refused_handshake_is_the_servers_own(place: Place) -> None:
    def refuse(server: ServerConnection, request: Request) -> Response:
        return server.respond(418, "no coffee")

    with websocket_server(echo, process_request=refuse) as port:
        assert refusal(place, f"{place.url}/ports/{port}/") == (418, b"no coffee")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refusal(place, f"{place.url}/ports/{port}/")[0] == 404
    assert refusal(place, f"{place.prefix}/", additional_headers={})[0] == 401
    for answer in (
        b"",
        b"SSH-2.0\r\n",
        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ):
        place.server.answer = answer
        assert refusal(place, f"{place.prefix}/")[0] == 502, answer
    place.server.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
    assert refusal(place, f"{place.prefix}/") == (200, b"hello")
    quiet(place)


def test_another_sites_page_gets_no_websocket_by_a_cookie(place: Place) -> None:
    token = place.share()["token"]
    cookie = {"cookie": f"mas_port_token={token}", "host": place.host}
    with websocket_server(echo) as port:
        shared = place.share(port=port)["token"]
        host = place.host.replace(str(place.server.port), str(port), 1)
        cookie = {"cookie": f"mas_port_token={shared}"}
        path = f"{place.url}/ports/{port}/"
        for origin in ("http://evil.example", "null", f"http://9-{host[6:]}"):
            told = refusal(place, path, additional_headers=cookie | {"origin": origin})
            assert told[0] == 403
        own = cookie | {"origin": f"http://127.0.0.1:{place.door.port}"}
        with dial(place, path, additional_headers=own) as client:
            client.send("hello")
            assert client.recv(10) == "hello"
        foreign = {"origin": "http://evil.example"}
        query = f"{path}?mas_port_token={shared}"
        with dial(place, query, additional_headers=foreign) as client:
            client.send("hello")
            assert client.recv(10) == "hello"


def test_a_server_that_breaks_off_closes_with_1014(place: Place) -> None:
    def broken(server: ServerConnection) -> None:
        server.socket.sendall(b"\x80\x80\x80 nonsense")

    def gone(server: ServerConnection) -> None:
        server.socket.shutdown(socket.SHUT_RDWR)

    def too_large(server: ServerConnection) -> None:
        server.send(bytes(2 * MIB))

    for talk in (broken, gone, too_large):
        with (
            websocket_server(talk) as port,
            dial(place, f"{place.url}/ports/{port}/") as client,
            pytest.raises(ConnectionClosed) as closed,
        ):
            client.recv(10)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1014, talk
        quiet(place)


def test_a_client_that_reads_slowly_holds_up_the_server(place: Place) -> None:
    sent: list[int] = []

    def flood(server: ServerConnection) -> None:
        for _ in range(64):
            server.send(bytes(MIB // 2))
            sent.append(1)

    with (
        websocket_server(flood) as port,
        dial(place, f"{place.url}/ports/{port}/", max_queue=1) as client,
    ):
        client.recv(10)
        previous = -1
        while len(sent) != previous:
            previous = len(sent)
            time.sleep(0.3)
        assert len(sent) < 40
        assert sum(len(message) for message in client) == 63 * MIB // 2


def test_pings_of_a_server_that_never_reads_are_answered_within_bounds(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports_socket, "CLOSE_S", 0.2)
    pinged: list[int] = []
    full = threading.Event()

    def flood(connected: socket.socket) -> None:
        head = connected.recv(65536).decode()
        key = re.search(r"(?i)sec-websocket-key: (\S+)", head)
        assert key
        answer = "HTTP/1.1 101 S\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        connected.sendall(f"{answer}sec-websocket-accept: {accept_key(key[1])}\r\n\r\n".encode())
        connected.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while sum(pinged) < 64 * MIB:
                pinged.append(connected.send((b"\x89\x7d" + bytes(125)) * 1000))
        full.set()

    with raw(flood) as port, dial(place, f"{place.url}/ports/{port}/"):
        assert full.wait(30)
    assert sum(pinged) < 32 * MIB
    quiet(place)


def test_a_server_that_takes_nothing_is_given_up(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ports, "STALLED_S", 0.3)
    ending = threading.Event()
    in_time: list[bool] = []
    with raw(lambda _: in_time.append(ending.wait(10))) as port:
        with dial(place, f"{place.url}/tunnels/{port}") as client:
            with pytest.raises(ConnectionClosed) as closed:
                while True:
                    client.send(bytes(MIB // 4))
            assert closed.value.rcvd
            assert closed.value.rcvd.code == 1014
        ending.set()
    assert in_time == [True]
    quiet(place)


def test_a_sandbox_that_ends_ends_its_sockets(mortal: Place) -> None:
    with (
        websocket_server(echo) as port,
        dial(mortal, f"{mortal.url}/ports/{port}/") as client,
    ):
        client.send("hello")
        assert client.recv(10) == "hello"
        assert mortal.ask(f"DELETE {mortal.url}", BEARER).status == 200
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
        assert closed.value.rcvd
        assert closed.value.rcvd.code == 1014


# Tunnels


def answering(connected: socket.socket) -> None:
    received = b""
    while data := connected.recv(65536):
        received += data
    connected.sendall(b"you said " + received)


@contextmanager
def raw(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of one connection, which hears all that is said."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def run() -> None:
            connected, _ = listening.accept()
            with connected:
                talk(connected)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)
        assert not thread.is_alive()


def said(client: ClientConnection) -> bytes:
    """All until the end of the server's direction, and that it was the end."""
    pieces = []
    while piece := client.recv(10):
        assert isinstance(piece, bytes)
        pieces.append(piece)
    with pytest.raises(ConnectionClosed) as closed:
        client.recv(10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1000
    return b"".join(pieces)


def test_a_tunnel_carries_bytes_both_ways_and_the_end_of_each(place: Place) -> None:
    data = os.urandom(2 * MIB)
    with raw(answering) as port, dial(place, f"{place.url}/tunnels/{port}") as client:
        for start in range(0, len(data), MIB // 8):
            client.send(data[start : start + MIB // 8])
        client.send(b"")
        assert said(client) == b"you said " + data
    with (
        raw(lambda connected: connected.sendall(b"bye")) as port,
        dial(place, f"{place.url}/tunnels/{port}") as client,
    ):
        assert said(client) == b"bye"
    quiet(place)


def test_a_tunnel_is_refused_where_nothing_listens_or_nobody_may(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert refusal(place, f"{place.url}/tunnels/{port}")[0] == 404
    assert refusal(place, f"{place.url}/tunnels/3128")[0] == 404
    for wrong in ("0", "x", "65536"):
        assert refusal(place, f"{place.url}/tunnels/{wrong}")[0] == 400
    token = place.share()["token"]
    path = f"{place.url}/tunnels/{place.server.port}"
    for headers in ({}, {"x-mas-port-token": token}, {"cookie": f"mas_port_token={token}"}):
        assert refusal(place, path, additional_headers=headers)[0] == 401
    foreign = HEADERS | {"origin": "http://evil.example"}
    assert refusal(place, path, additional_headers=foreign)[0] == 403
    assert place.server.heard == []


def test_a_tunnel_takes_no_text(place: Place) -> None:
    with raw(answering) as port, dial(place, f"{place.url}/tunnels/{port}") as client:
        client.send("text")
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(10)
    assert closed.value.rcvd
    assert closed.value.rcvd.code == 1008


def test_a_client_that_goes_away_ends_its_tunnel(place: Place) -> None:
    with raw(lambda connected: connected.recv(1) and None) as port:
        dial(place, f"{place.url}/tunnels/{port}").socket.shutdown(socket.SHUT_RDWR)
    quiet(place)


def test_a_daemon_that_ends_ends_tunnels_and_sockets(mortal: Place) -> None:
    with (
        raw(answering) as tunnelled,
        websocket_server(echo) as port,
        dial(mortal, f"{mortal.url}/tunnels/{tunnelled}") as tunnel,
        dial(mortal, f"{mortal.url}/ports/{port}/") as client,
    ):
        closing = mortal.door.bench.broker.close()
        asyncio.run_coroutine_threadsafe(closing, mortal.door.loop).result(10)
        for each in (tunnel, client):
            with pytest.raises(ConnectionClosed):
                each.recv(10)
