"""The real HTTP door, in a thread, in front of a broker on a MemoryRuntime."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.file import PolicyFile
from mas_sandbox.server.auth import Authenticator
from mas_sandbox.server.http.app import Door as App
from mas_sandbox.server.http.app import build_app
from mas_sandbox.server.http.serve import Server, build_server
from mas_sandbox.server.listen import Address, HostNames, bind


class Door:
    """Where it listens, and what stands behind it."""

    def __init__(self, port: int, bench: Bench, loop: asyncio.AbstractEventLoop, app: App) -> None:
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.bench = bench
        self.loop = loop

    def send(self, data: bytes, timeout_s: float = 15) -> bytes:
        """Send bytes as they are; what comes back until the daemon closes."""
        with self.connect(timeout_s) as connection:
            connection.sendall(data)
            return read_all(connection)

    def connect(self, timeout_s: float = 15) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout_s)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the other end closes or resets."""
    got = b""
    try:
        while part := connection.recv(65536):
            got += part
    except ConnectionResetError:
        pass
    return got


async def _end(server: Server) -> None:
    """As uvicorn's own `shutdown`, which takes up to a third of a second in steps of a tenth."""
    for each in server.servers:
        each.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()
    state = server.server_state
    with suppress(TimeoutError):
        async with asyncio.timeout(server.config.timeout_graceful_shutdown):
            while state.connections or state.tasks:
                await asyncio.sleep(0.002)
    for task in state.tasks:
        task.cancel()


@contextmanager
def http_door(
    directory: Path,
    runtime: MemoryRuntime | None = None,
    *,
    token: str | None = None,
    file: PolicyFile | None = None,
    **options: Any,
) -> Iterator[Door]:
    """Serve until the context ends."""
    ready: list[Door] = []
    started, ending = threading.Event(), asyncio.Event()
    failure: list[BaseException] = []

    async def main() -> None:
        authenticator = Authenticator(DEFAULT_POLICY, None, token, file)
        async with bench(directory, runtime, **options) as made:
            app = build_app(
                made.broker, authenticator, HostNames(("allowed.example",), "ports.test")
            )
            server = build_server(app)
            with bind(Address("127.0.0.1", 0), authenticator.required, token) as listener:
                port, loop = listener.getsockname()[1], asyncio.get_running_loop()
                ready.append(Door(port, made, loop, app))
                serving = asyncio.create_task(server.serve(sockets=[listener]))
                started.set()
                await ending.wait()
                await made.broker.drain(0)
                serving.cancel()
                await _end(server)

    def thread() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    running = threading.Thread(target=thread)
    running.start()
    started.wait(20)
    try:
        if failure:
            raise failure[0]
        yield ready[0]
    finally:
        if ready:
            ready[0].loop.call_soon_threadsafe(ending.set)
        running.join(20)
    if failure:
        raise failure[0]
