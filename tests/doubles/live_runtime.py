"""A runtime whose sandboxes have a real channel to a toolrunner in memory.

It follows wire/frames.py and wire/process.py: START, STARTED, STDIN and output under credit,
SIGNAL, RESIZE, CANCEL; and the calls `sandbox.*` on a dictionary of files. Programs are
`PROGRAMS`. It does not model: paths and grants, modes, directories with content, limits.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.runtimes.base import Sandbox, SandboxSpec
from mas_sandbox.runtimes.channel import open_channel
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.credit import ReceiveCredit, SendCredit
from mas_sandbox.wire.frames import CHUNK, DATA_KINDS, FROM_HOST, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Call, Hello, Result
from mas_sandbox.wire.process import SHELL, SIZE, STARTED, Process


class Ended(Exception):
    """A program or call that ends with this result."""

    def __init__(self, exit_code: int = 0, code: str = "", message: str = "", reason: str = ""):
        super().__init__(message)
        self.result = Result(exit_code, code, message, reason=reason)


class Running:
    """One stream, from the guest's side."""

    def __init__(self, guest: LiveGuest, number: int) -> None:
        self.guest = guest
        self.number = number
        self.input: asyncio.Queue[bytes] = asyncio.Queue()
        self.signals: asyncio.Queue[int] = asyncio.Queue()
        self.size: tuple[int, int] | None = None
        self.credit = SendCredit()
        self.incoming = ReceiveCredit()
        self.more_credit = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.written = 0

    async def write(self, data: bytes, kind: Kind = Kind.STDOUT) -> None:
        view = memoryview(data)
        while view:
            while not self.credit.available:
                self.more_credit.clear()
                await self.more_credit.wait()
            piece = view[: min(CHUNK, self.credit.available)]
            self.credit.spend(len(piece))
            self.written += len(piece)
            self.guest.send(kind, self.number, bytes(piece))
            view = view[len(piece) :]

    async def read(self) -> bytes:
        data = await self.input.get()
        grant = self.incoming.consumed(len(data))
        if grant is not None:
            self.guest.send(Kind.CREDIT, self.number, grant)
        return data


Program = Callable[[Running, list[str]], Awaitable[None]]


async def _echo(own: Running, words: list[str]) -> None:
    await own.write(" ".join(words[1:]).encode() + b"\n")


async def _cat(own: Running, words: list[str]) -> None:
    while data := await own.read():
        await own.write(data)


async def _flood(own: Running, words: list[str]) -> None:
    left = int(words[1])
    while left:
        piece = min(left, CHUNK)
        await own.write(b"x" * piece)
        left -= piece


async def _both(own: Running, words: list[str]) -> None:
    await own.write(b"out")
    await own.write(b"err", Kind.STDERR)
    raise Ended(3)


async def _sleep(own: Running, words: list[str]) -> None:
    raise Ended(128 + await own.signals.get())


async def _deaf(own: Running, words: list[str]) -> None:
    await asyncio.Event().wait()


PROGRAMS: dict[str, Program] = {
    "echo": _echo,
    "cat": _cat,
    "flood": _flood,
    "both": _both,
    "sleep": _sleep,
    "deaf": _deaf,
}


class LiveGuest:
    """`files`: path -> content, None for a directory; `started`: what START asked for, in
    order; `watches`: running `sandbox.watch` calls; `streams`: what runs; `listening`: what
    `sandbox.ports` answers. `sandbox.connect` connects to this machine's own loopback."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._parser = FrameParser(FROM_HOST)
        self._out = bytearray()
        self._flush = asyncio.Event()
        self._pid = 100
        self.files: dict[str, bytes | None] = {"/workspace": None}
        self.started: list[Process] = []
        self.calls: list[Call] = []
        self.watches: list[Running] = []
        self.listening: Any = []
        self.streams: dict[int, Running] = {}
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._talk())]

    def send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        self._out += encode(kind, number, payload)
        self._flush.set()

    async def _talk(self) -> None:
        self.send(Kind.HELLO, 0, Hello(1, 2, "3.11.2", [], []).encode())
        while True:
            await self._flush.wait()
            self._flush.clear()
            data, self._out = bytes(self._out), bytearray()
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        while data := await loop.sock_recv(self._socket, 1 << 18):
            for kind, number, payload in self._parser.feed(data):
                self._take(kind, number, payload)
        self.close()

    def close(self) -> None:
        for running in self.streams.values():
            if running.task is not None:
                running.task.cancel()
        for task in self._tasks:
            task.cancel()
        self._socket.close()

    def _take(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.WELCOME:
            self.send(Kind.READY, 0)
        elif kind is Kind.PING:
            self.send(Kind.PONG, 0, payload)
        elif kind in (Kind.START, Kind.CALL):
            running = self.streams[number] = Running(self, number)
            running.task = asyncio.create_task(self._run(running, kind, payload))
        elif number in self.streams:
            self._tell(self.streams[number], kind, payload)

    def _tell(self, running: Running, kind: Kind, payload: bytes) -> None:
        if kind in DATA_KINDS:
            running.incoming.received(len(payload))
            running.input.put_nowait(payload)
        elif kind is Kind.CREDIT:
            running.credit.granted(payload)
            running.more_credit.set()
        elif kind is Kind.SIGNAL:
            running.signals.put_nowait(payload[0])
        elif kind is Kind.RESIZE:
            running.size = SIZE.unpack(payload)
        elif kind is Kind.CANCEL and running.task is not None:
            # After its first step, which is due: else it would never tell how it ended.
            asyncio.get_running_loop().call_soon(running.task.cancel)

    async def _run(self, own: Running, kind: Kind, payload: bytes) -> None:
        result = Result(0)
        try:
            await (self._start(own, payload) if kind is Kind.START else self._call(own, payload))
        except Ended as ended:
            result = ended.result
        except asyncio.CancelledError:
            result = Result(137, "interrupted", "it was cancelled")
        del self.streams[own.number]
        self.send(Kind.RESULT, own.number, result.encode())

    async def _start(self, own: Running, payload: bytes) -> None:
        process = Process.parse(payload)
        self.started.append(process)
        words = process.argv
        if words[0] == SHELL:
            words = words[-1].split()
        program = PROGRAMS.get(words[0])
        if program is None:
            raise Ended(127, "not_found", f"no program {words[0]}")
        self._pid += 1
        self.send(Kind.STARTED, own.number, STARTED.pack(self._pid))
        await program(own, words)

    async def _call(self, own: Running, payload: bytes) -> None:
        call = Call.parse(payload)
        self.calls.append(call)
        name = call.tool.removeprefix("sandbox.")
        value = await getattr(self, f"_{name}")(own, **call.args)
        await own.write(strict_json.dumps(value), Kind.VALUE)

    def _entry(self, path: str) -> dict[str, Any]:
        if path not in self.files:
            raise Ended(1, "tool_failed", f"{path}: no such file", "not_found")
        content = self.files[path]
        return {
            "path": path,
            "name": path.rpartition("/")[2],
            "type": "directory" if content is None else "file",
            "size": len(content or b""),
            "mode": 0o644,
            "modified_ms": 1,
        }

    async def _stat(self, own: Running, path: str) -> Any:
        return self._entry(path)

    async def _list(self, own: Running, path: str, depth: int, limit: int) -> Any:
        found = [self._entry(each) for each in sorted(self.files) if each.startswith(f"{path}/")]
        return {"entries": found[:limit], "truncated": len(found) > limit}

    async def _mkdir(self, own: Running, path: str, parents: bool) -> Any:
        if path in self.files:
            raise Ended(1, "tool_failed", f"{path} is there", "exists")
        self.files[path] = None
        return self._entry(path)

    async def _move(self, own: Running, source: str, destination: str, overwrite: bool) -> Any:
        self._entry(source)
        self.files[destination] = self.files.pop(source)
        return self._entry(destination)

    async def _remove(self, own: Running, path: str, recursive: bool) -> Any:
        self._entry(path)
        del self.files[path]
        return {"path": path}

    async def _read(
        self, own: Running, path: str, offset: int = 0, length: int | None = None
    ) -> Any:
        entry = self._entry(path)
        content = self.files[path] or b""
        await own.write(content[offset : None if length is None else offset + length])
        return entry

    async def _write(self, own: Running, path: str, parents: bool, mode: int | None = None) -> Any:
        if path == "/workspace/full":
            await own.read()
            raise Ended(1, "tool_failed", "no space left", "no_space")
        content = bytearray()
        while data := await own.read():
            content += data
        self.files[path] = bytes(content)
        return self._entry(path)

    async def _pack(self, own: Running, path: str) -> Any:
        self._entry(path)
        await own.write(b"tar of " + path.encode())
        return {"entries": 1, "bytes": 1, "skipped": 0}

    async def _unpack(self, own: Running, path: str, max_entries: int, max_bytes: int) -> Any:
        total = 0
        while data := await own.read():
            total += len(data)
        return {"entries": 1, "bytes": total}

    async def _watch(self, own: Running, path: str, recursive: bool) -> Any:
        self._entry(path)
        self.watches.append(own)
        await own.write(strict_json.dumps({"event": "watching", "path": path}) + b"\n")
        await asyncio.Event().wait()

    async def _ports(self, own: Running) -> Any:
        return self.listening

    async def _connect(self, own: Running, port: int) -> Any:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError as error:
            raise Ended(1, "tool_failed", "nothing listens there", "not_found") from error
        await own.write(b"connected\n", Kind.STDERR)
        feeding = asyncio.create_task(_feed(own, writer))
        try:
            while data := await reader.read(CHUNK):
                await own.write(data)
        except ConnectionError as error:
            raise Ended(1, "tool_failed", "the server broke the connection") from error
        finally:
            feeding.cancel()
            writer.close()
        return {"sent": 0, "received": own.written}


async def _feed(own: Running, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await own.read():
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        return  # it does not read any more


class LiveSandbox(Sandbox):
    """One LiveGuest behind a real channel."""

    guest: LiveGuest

    def oom_kills(self) -> int:
        return 0

    async def pause(self) -> None:
        return

    async def resume(self) -> None:
        return

    async def stop(self) -> None:
        await self.channel.aclose()
        self.guest.close()


class LiveRuntime(MemoryRuntime):
    """`guests`: one for each sandbox, in the order in which they were started."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.guests: list[LiveGuest] = []

    async def start(self, spec: SandboxSpec) -> Sandbox:
        ours, theirs = socket.socketpair()
        sandbox = LiveSandbox()
        sandbox.id = f"live-{len(self.guests)}"
        sandbox.enforced = self.sandbox_controls
        sandbox.channel = await open_channel(ours)
        sandbox.guest = LiveGuest(theirs)
        await sandbox.channel.welcome({}, "live", 5.0)
        self.guests.append(sandbox.guest)
        return sandbox
