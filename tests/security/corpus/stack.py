"""The whole way out: a real daemon, its policy, a name server, and a world of the test's."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from doubles.network_world import ALLOWED, OTHER
from running_daemon import RunningDaemon, daemon

from .names import NameServer
from .world import METADATA, DecoyWorld

API, PLAIN = (ALLOWED, 443), (ALLOWED, 80)
SPECIAL = {
    "metadata": METADATA[0],
    "credentials": METADATA[1],
    "azure": METADATA[3],
    "private": "10.99.0.1",
    "office": "192.168.0.9",
    "shared": "100.64.0.9",
    "link": "169.254.9.9",
    "bench": "198.18.0.9",
    "loopback": "127.0.0.1",
    "any": "0.0.0.0",
    "group": "224.0.0.251",
    "host": "10.77.0.1",
    "elsewhere": OTHER,
}
NAMES = {
    "api.test": [ALLOWED],
    "a.wild.test": [ALLOWED],
    "flip.test": [ALLOWED, "10.99.0.1", ALLOWED, METADATA[0]],
    "evil-api.test": [OTHER],
    "wild.test": [OTHER],
    **{f"{name}.special.test": [address] for name, address in SPECIAL.items()},
}
LIMITLESS: dict[str, Any] = dict.fromkeys(("mem_mb", "cpus", "pids", "disk_mb"))
"""Machines are then of the size that other tests make as well."""
POLICY: dict[str, Any] = LIMITLESS | {
    "capabilities": ["file", "exec", "network"],
    "network": {
        "hosts": ["api.test", "flip.test", "*.wild.test", "*.special.test"],
        "cidrs": [f"{ALLOWED}/32"],
        "ports": [443, 80],
    },
}
CALL_S = 300.0
LOCATIONS = {
    "/to/metadata": "http://169.254.169.254/latest/",
    "/to/private": "http://private.special.test/",
    "/to/loopback": "http://127.0.0.1:8080/",
    "/to/other": "http://evil-api.test/",
    "/to/tls": "https://private.special.test/",
    "/to/file": "file:///etc/passwd",
}
_PRELUDE = """
import json, os, socket, ssl, struct, sys, threading
PROXY = ('127.0.0.1', 3128)
def told(raw, then=b''):
    '''The status of an answer of HTTP, or what came instead.'''
    try:
        with socket.create_connection(PROXY, 20) as end:
            end.settimeout(20)
            end.sendall(raw)
            head = end.recv(65536)
            if then: end.sendall(then); head = end.recv(65536)
            return head.split(b' ')[1].decode() if head[:5] == b'HTTP/' else head[:20].hex() or 'closed'
    except OSError as error: return type(error).__name__
def connect(authority, then=b''):
    raw = authority.encode() if isinstance(authority, str) else authority
    return told(b'CONNECT ' + raw + b' HTTP/1.1\\r\\nHost: ' + raw + b'\\r\\n\\r\\n', then)
def get(url, *headers):
    return told('\\r\\n'.join([f'GET {url} HTTP/1.1', 'Host: x', *headers, '', '']).encode())
def socks(name, port=443, command=1, kind=3):
    raw = name if isinstance(name, bytes) else name.encode()
    body = (bytes([len(raw)]) if kind == 3 else b'') + raw
    try:
        with socket.create_connection(PROXY, 20) as end:
            end.settimeout(20)
            end.sendall(b'\\5\\1\\0')
            end.recv(2)
            end.sendall(bytes([5, command, 0, kind]) + body + port.to_bytes(2))
            answer = end.recv(100)
            return f'socks {answer[1]}' if len(answer) > 1 else 'closed'
    except OSError as error: return type(error).__name__
def say(**found): print(json.dumps(found), flush=True)
"""


class Server:
    """What listens in the world. `accepted`: connections; `received`: all bytes of them."""

    def __init__(self, listening: socket.socket, locations: dict[str, str]) -> None:
        self.accepted = 0
        self.received = bytearray()
        self._locations = locations
        self._listening = listening
        listening.settimeout(None)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                end, _ = self._listening.accept()
                self.accepted += 1
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end: socket.socket) -> None:
        with end, suppress(OSError):
            while data := end.recv(65536):
                self.received += data
                if request := re.match(rb"GET (\S+) HTTP/1", data):
                    end.sendall(self._answer(request[1].decode()))
                    return

    def _answer(self, path: str) -> bytes:
        location = self._locations.get(path)
        if path.startswith("/loop/"):
            location = f"http://api.test/loop/{int(path[6:]) + 1}"
        if location is None:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        return f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode()


Servers = dict[tuple[str, int], Server]


@contextmanager
def serving(world: DecoyWorld) -> Iterator[Servers]:
    """At the address that the policy allows, and at one that it does not."""
    made = {
        (address, port): Server(world.listener(address, port), LOCATIONS)
        for address in (ALLOWED, OTHER)
        for port in (80, 443, 8443)
    }
    yield made
    for server in made.values():
        server.close()


class Stack:
    """One daemon with one named sandbox, and all that is outside it."""

    def __init__(
        self, running: RunningDaemon, world: DecoyWorld, names: NameServer, servers: Servers
    ) -> None:
        self.daemon = running
        self.world = world
        self.names = names
        self.servers = servers
        self.sandbox = self.create()

    def create(self, **policy: Any) -> str:
        status, reply = self.daemon.post("/v1/sandbox/create", {"policy": policy} if policy else {})
        assert status == 200, reply
        return str(reply["sandbox_id"])

    def destroy(self, sandbox: str) -> None:
        self.daemon.post("/v1/sandbox/destroy", {"sandbox_id": sandbox})

    def execute(
        self, tool: str, args: dict[str, Any], sandbox: str = "", **more: Any
    ) -> dict[str, Any]:
        body = {"tool": {"name": tool, "args": args}, "sandbox_id": sandbox or self.sandbox}
        status, reply = self.daemon.post("/v1/sandbox/execute", body | more, CALL_S)
        assert status == 200, reply
        return reply

    def python(self, code: str, sandbox: str = "", **more: Any) -> dict[str, Any]:
        """What the program said: with `connect`, `get`, `socks` and `told`, of the proxy's
        answers; the last line is JSON."""
        reply = self.execute("python", {"code": _PRELUDE + code}, sandbox, **more)
        assert reply["status"] == "ok", reply
        assert reply["exit_code"] == 0, reply["stderr"]
        found = json.loads(reply["result"].splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def went_to(self) -> set[str]:
        """Where packets went since this was last asked; nobody's decoy had one."""
        assert self.world.reached() == []
        return set(self.world.arrived())


@contextmanager
def stack(
    runtime: str,
    world: DecoyWorld,
    servers: Servers,
    state: Path,
    place: Path,
    policy: Mapping[str, Any] = POLICY,
    answers: Mapping[str, list[str]] = NAMES,
) -> Iterator[Stack]:
    """`state`: the daemon's; `place`: for the files that it is started with; `policy`: of all
    that it runs; `answers`: of the only name server that it knows."""
    document = {"version": 1, "default": "agent", "policies": {"agent": dict(policy)}}
    for name, text in {
        "policy.json": json.dumps(document),
        "resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:1\n",
        "hosts": "127.0.0.1 localhost\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    }.items():
        (place / name).write_text(text)
    mounts = "; ".join(
        f"mount --bind {place / name} /etc/{name}"
        for name in ("resolv.conf", "hosts", "nsswitch.conf")
    )
    launcher = ["unshare", "--mount", "sh", "-ec", f'{mounts}; exec "$@"', "sh"]
    flags = ("-policy", str(place / "policy.json"), "-pool", "0")
    with ExitStack() as undo:
        names = undo.enter_context(NameServer(answers))
        running = undo.enter_context(daemon(state, *flags, runtime=runtime, launcher=launcher))
        yield Stack(running, world, names, servers)
