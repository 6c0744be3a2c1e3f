"""Nothing replaced: the system's resolver, real sockets on loopback, clients people use."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest

from doubles.proxy_port import Server, answering, proxy_port
from mas_sandbox.egress import dial
from mas_sandbox.egress.refusal import Outcome, Refused
from mas_sandbox.egress.session import Session
from mas_sandbox.policy.grants import NetworkPolicy

pytestmark = pytest.mark.anyio

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


@asynccontextmanager
async def loopback(certificate: Path | None = None) -> AsyncIterator[tuple[int, int, Server]]:
    """The proxy's port, the server's port, the server; the policy names loopback."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = Server(answering(OK))
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    number = listening.sockets[0].getsockname()[1]
    network = NetworkPolicy(hosts=("localhost",), cidrs=("127.0.0.1", "::1"), ports=(number,))
    async with listening, proxy_port(network) as (port, _):

        async def record(decision: object) -> None:
            port.decisions.append(decision)

        port.session = Session(network, None, record)
        yield port.port, number, server


async def test_urllib_fetches_through_the_proxy_and_reads_why_not() -> None:
    async with loopback() as (proxy, number, server):
        handler = urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{proxy}"})
        opener = urllib.request.build_opener(handler)

        def fetch(host: str) -> bytes:
            with opener.open(f"http://{host}:{number}/", timeout=10) as answer:
                return bytes(answer.read())

        assert await asyncio.to_thread(fetch, "localhost") == b"hello"
        assert await asyncio.to_thread(fetch, "127.0.0.1") == b"hello"
        with pytest.raises(urllib.error.HTTPError) as refused:
            await asyncio.to_thread(fetch, "127.0.0.9")
        assert refused.value.headers["X-Mas-Sandbox-Rule"].startswith("special range: loopback")
        assert b"network.cidrs" in refused.value.read()
        refused.value.close()
        assert server.accepted == 2


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", path, "-out", path),
            *("-addext", "subjectAltName=DNS:localhost"),
        ],
        check=True,
        capture_output=True,
    )
    return path


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
async def test_curl_speaks_tls_with_the_server_itself(certificate: Path, scheme: str) -> None:
    async with loopback(certificate) as (proxy, number, server):
        curl = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--max-time", "15", "--cacert", str(certificate)),
            *("--proxy", f"{scheme}://127.0.0.1:{proxy}", f"https://localhost:{number}/"),
            stdout=subprocess.PIPE,
        )
        assert (await curl.communicate())[0] == b"hello"
        assert server.accepted == 1


async def test_a_dial_that_fails_leaves_no_socket_open() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ConnectionRefusedError) as kept:
            await dial.tcp_connect(ip_address("127.0.0.1"), closed.getsockname()[1])
        assert len(os.listdir("/proc/self/fd")) == before, kept


async def test_a_dial_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(dial, "DIAL_S", 0.05)
    with pytest.raises(Refused) as refused:
        await dial.dial(hang, ip_address("127.0.0.1"), 9)
    assert refused.value.outcome is Outcome.NO_ANSWER
