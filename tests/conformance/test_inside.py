"""The host's own calls in a sandbox, in every runtime: files, archives, events, ports."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from typing import Any

import pytest

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.runtimes.live import LiveStream
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.frames import Kind
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

MEGABYTE = 1024 * 1024


def begin(sandbox: Sandbox, name: str, **args: object) -> LiveStream:
    return sandbox.channel.stream(Call(f"sandbox.{name}", args, output_bytes=1 << 40))


async def gather(stream: LiveStream) -> tuple[Any, bytes]:
    """Value and output of one that succeeds."""
    output, value = bytearray(), bytearray()
    while (piece := await stream.read()) is not None:
        if piece[0] is not Kind.STDERR:
            (output if piece[0] is Kind.STDOUT else value).extend(piece[1])
    result = await stream.result
    assert result.code == "", result.message
    return strict_json.loads(value), bytes(output)


async def call(
    sandbox: Sandbox, name: str, written: bytes | None = None, **args: object
) -> tuple[Any, bytes]:
    stream = begin(sandbox, name, **args)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        answer = group.create_task(gather(stream))
        if written is not None:
            await stream.write(written)
            stream.write_eof()
    return answer.result()


async def reason(sandbox: Sandbox, name: str, **args: object) -> str:
    return (await sandbox.run(Call(f"sandbox.{name}", args))).reason


async def told(stream: LiveStream, line: object) -> None:
    """Read until it has been told."""
    text = b""
    async with asyncio.timeout(30):
        while line not in [strict_json.loads(each) for each in text.split(b"\n")[:-1]]:
            piece = await stream.read()
            assert piece is not None, await stream.result
            text += piece[1]


async def test_files_go_in_and_out(sandbox: Sandbox) -> None:
    data = os.urandom(3 * MEGABYTE)
    written, _ = await call(sandbox, "write", data, path="/workspace/a/f", parents=True)
    read = await call(sandbox, "read", path="/workspace/a/f", offset=1, length=2 * MEGABYTE)
    assert read == (written, data[1 : 2 * MEGABYTE + 1])
    assert written["size"] == len(data)
    assert (await call(sandbox, "stat", path="a/f"))[0] == written
    made, _ = await call(sandbox, "mkdir", path="b/c", parents=True)
    assert made["created"]
    moved, _ = await call(sandbox, "move", source="a/f", destination="b/c/g")
    assert moved["path"] == "/workspace/b/c/g"
    assert await reason(sandbox, "move", source="b", destination="a") == "exists"
    listed, _ = await call(sandbox, "list", path="/workspace", depth=3)
    assert [entry["path"] for entry in listed["entries"]] == [
        *("/workspace/a", "/workspace/b", "/workspace/b/c", "/workspace/b/c/g")
    ]
    assert await reason(sandbox, "remove", path="b") == "not_empty"
    await call(sandbox, "remove", path="b", recursive=True)
    assert await reason(sandbox, "read", path="b/c/g") == "not_found"


async def test_an_archive_goes_in_and_out(sandbox: Sandbox) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, kind, target in (
            ("d/f", tarfile.REGTYPE, ""),
            ("d/l", tarfile.SYMTYPE, "f"),
            ("h", tarfile.LNKTYPE, "d/f"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 5 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"hello"))
    await call(sandbox, "mkdir", path="in")
    unpacked, _ = await call(sandbox, "unpack", made.getvalue(), path="in")
    assert unpacked == {"entries": 3, "bytes": 5}
    _, packed = await call(sandbox, "pack", path="in")
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        assert tar.getnames() == ["d", "d/f", "d/l", "h"]
        content = tar.extractfile("h")
        assert content is not None
        assert content.read() == b"hello"


async def test_what_changes_is_told_until_the_call_is_cancelled(sandbox: Sandbox) -> None:
    stream = begin(sandbox, "watch", path="/workspace", recursive=True)
    await told(stream, {"event": "watching", "path": "/workspace"})
    for command, event, path in (
        ("mkdir d", "created", "d"),
        ("mkdir d/e", "created", "d/e"),
        ("echo x >d/e/f", "created", "d/e/f"),
        ("rm d/e/f", "removed", "d/e/f"),
    ):
        # One at a time: what has gone again before its directory was looked at is never told.
        await sandbox.run(Call("bash", {"command": command}))
        await told(stream, {"event": event, "path": f"/workspace/{path}"})
    stream.cancel()
    async with asyncio.timeout(10):
        while await stream.read() is not None:
            pass
    assert (await stream.result).code == "interrupted"


SERVER = """
import socket, time
with socket.create_server(("127.0.0.1", 8123)) as server:
    print("up", flush=True)
    connected, _ = server.accept()
    with connected:
        while data := connected.recv(65536):
            connected.sendall(data)
"""


async def test_a_server_is_found_and_spoken_to(sandbox: Sandbox) -> None:
    assert await reason(sandbox, "connect", port=8123) == "not_found"
    server = sandbox.channel.stream(Call("python", {"code": SERVER}))
    async with asyncio.timeout(30):
        assert await server.read() == (Kind.STDOUT, b"up\n")
    ports, _ = await call(sandbox, "ports")
    assert ("127.0.0.1", 8123) in [(entry["address"], entry["port"]) for entry in ports]
    data = os.urandom(MEGABYTE)
    done = await call(sandbox, "connect", data, port=8123)
    assert done == ({"sent": MEGABYTE, "received": MEGABYTE}, data)
    async with asyncio.timeout(30):
        assert await server.read() is None
