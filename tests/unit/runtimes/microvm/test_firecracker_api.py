"""The client of Firecracker's API against its double, which keeps to what is published."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from doubles.firecracker_install import install_firecracker
from mas_sandbox.runtimes.microvm.firecracker.api import Api
from mas_sandbox.runtimes.microvm.firecracker.unix import connect_unix
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

Started = Callable[[str], Awaitable[Api]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Started]:
    """Starts doubles; the argument says how one misbehaves."""
    processes = []

    async def started(misbehave: str = "") -> Api:
        program = install_firecracker(tmp_path / "bin", misbehave)
        command = [program, "--api-sock", "api.sock", "--id", "vm-1"]
        processes.append(subprocess.Popen(command, cwd=tmp_path))
        async with asyncio.timeout(10):
            while True:
                try:
                    (await connect_unix(tmp_path / "api.sock")).close()
                    return Api(tmp_path / "api.sock")
                except OSError:
                    await asyncio.sleep(0.01)

    yield started
    for process in processes:
        process.kill()
        process.wait()


async def refusal(step: Awaitable[object]) -> str:
    with pytest.raises(SandboxError) as caught:
        await step
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    return caught.value.message


async def test_an_answer_with_a_body_is_its_object(start: Started) -> None:
    api = await start("")
    assert await api.get("/version") == {"firecracker_version": "1.16.1"}
    assert (await api.get("/"))["state"] == "Not started"


async def test_what_was_put_is_there(start: Started) -> None:
    api = await start("")
    await api.put("/machine-config", {"vcpu_count": 2, "mem_size_mib": 256})
    assert (await api.get("/machine-config"))["mem_size_mib"] == 256


async def test_a_fault_is_told_with_the_request_that_met_it(start: Started) -> None:
    api = await start("")
    told = await refusal(api.put("/boot-source", {"kernel_image_path": "/nowhere/vmlinux"}))
    assert told.startswith("Firecracker refused PUT /boot-source (400): Boot source error")
    assert "No such file" in told


@pytest.mark.parametrize(
    ("method", "target", "body", "told"),
    [
        ("PUT", "/boot-source", {"kernel": "x"}, "unknown field `kernel`"),
        ("PUT", "/vsock", {"guest_cid": 3}, "missing field `uds_path`"),
        ("PUT", "/vsock", {"guest_cid": "3", "uds_path": "v"}, "invalid type"),
        ("PUT", "/machine-config", {"vcpu_count": 0, "mem_size_mib": 1}, "vCPU number is invalid"),
        ("PUT", "/actions", {"action_type": "Reboot"}, "unknown variant `Reboot`"),
        ("PUT", "/actions", {"action_type": "InstanceStart"}, "without kernel configuration"),
        ("PUT", "/actions", {"action_type": "FlushMetrics"}, "before starting the microVM"),
        ("PATCH", "/vm", {"state": "Paused"}, "before starting the microVM"),
        ("PUT", "/drives/a", {"drive_id": "b", "is_root_device": True}, "does not match the id"),
        ("PUT", "/drives/a-b", {"drive_id": "a-b", "is_root_device": True}, "alphanumeric"),
        ("PUT", "/snapshot/load", {"snapshot_path": "s"}, "missing field: either `mem_backend`"),
        ("PUT", "/vsocks/1", {"guest_cid": 3}, "Invalid request method and/or path: PUT vsocks"),
        ("DELETE", "/vm", {"state": "Paused"}, "Invalid request method and/or path"),
        ("GET", "/machine-config", {"a": 1}, "GET request cannot have a body"),
        ("PUT", "/entropy", None, "Empty PUT request"),
    ],
)
async def test_the_double_refuses_what_firecracker_refuses(
    start: Started, method: str, target: str, body: dict[str, object] | None, told: str
) -> None:
    api = await start("")
    assert told in await refusal(api.request(method, target, body, 5))


async def test_a_snapshot_is_loaded_into_a_fresh_process_only(start: Started) -> None:
    api = await start("")
    await api.put("/logger", {"log_path": "log"})
    await api.put("/entropy", {})
    load = {
        "snapshot_path": "state",
        "mem_backend": {"backend_type": "File", "backend_path": "memory"},
    }
    assert "not allowed after configuring" in await refusal(api.put("/snapshot/load", load))


async def test_a_server_that_says_nothing_is_given_up_at_the_deadline(start: Started) -> None:
    api = await start("silent")
    assert "did not answer GET /version within 0.2 s" in await refusal(api.get("/version", 0.2))


@pytest.mark.parametrize("misbehave", ["garbage", "endless"])
async def test_an_answer_that_is_not_http_is_refused(start: Started, misbehave: str) -> None:
    api = await start(misbehave)
    assert "answered GET /version with garbage" in await refusal(api.get("/version"))


async def test_nobody_there_is_told_as_such(tmp_path: Path) -> None:
    told = await refusal(Api(tmp_path / "none.sock").get("/version"))
    assert "Firecracker is gone, at GET /version" in told


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 200 \r\nContent-Length: 99999999999\r\n\r\n", "a body of 99999999999 bytes"),
        (b"HTTP/1.1 200 \r\nContent-Length: -1\r\n\r\n", "a body of -1 bytes"),
        (b"HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\n", "a transfer coding"),
        (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n[]", "a body that is not an object"),
        (b"HTTP/1.1 2x0 \r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 \r\nContent-Length: 9\r\n\r\n{}", "gone"),
        (b"HTTP/1.1 500 \r\n\r\n", r"refused GET / (500): without a word"),
    ],
)
async def test_a_hostile_answer_ends_in_a_typed_error(
    tmp_path: Path, answer: bytes, told: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    # A name too deep for sun_path: such sockets are reached through their directory.
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    near = tmp_path / "near"
    server = await asyncio.start_unix_server(serve, near)
    near.rename(deep / "api.sock")
    async with server:
        assert told in await refusal(Api(deep / "api.sock").get("/"))
