"""The service `egress`, from a program in a sandbox to a handler in the daemon.

What the handler of the daemon decides is in tests/unit/egress; here it only answers.
"""

from __future__ import annotations

import asyncio

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.streams import MAX_STREAMS, GuestStream
from mas_sandbox.wire.isolation import PROXY_PORT
from mas_sandbox.wire.messages import Call

pytestmark = [
    pytest.mark.anyio,
    # `local` has no wall, and so no way through one.
    pytest.mark.parametrize(
        "runtime",
        ["jail", "gvisor", "microvm", pytest.param("firecracker", marks=pytest.mark.long)],
        indirect=True,
    ),
]


async def python(sandbox: Sandbox, code: str) -> CallOutcome:
    start = f"import socket, os\naddress = ('127.0.0.1', {PROXY_PORT})\n"
    return await sandbox.run(Call("python", {"code": start + code}, timeout_ms=60_000))


async def echo(stream: GuestStream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def test_programs_are_told_of_the_way_out(sandbox: Sandbox) -> None:
    outcome = await sandbox.run(Call("bash", {"command": "echo $http_proxy $HTTPS_PROXY"}))
    assert outcome.stdout.split() == [b"http://127.0.0.1:%d" % PROXY_PORT] * 2


async def test_bytes_go_both_ways_and_each_direction_ends_by_itself(sandbox: Sandbox) -> None:
    sandbox.channel.serve("egress", echo)
    outcome = await python(
        sandbox,
        "import threading\n"
        "data = os.urandom(1_000_000)\n"
        "end = socket.create_connection(address)\n"
        "threading.Thread(target=lambda: (end.sendall(data), end.shutdown(1))).start()\n"
        "print(b''.join(iter(lambda: end.recv(65536), b'')) == data)",
    )
    assert outcome.stdout == b"True\n", outcome.stderr


async def test_where_nothing_is_served_every_connection_is_reset(sandbox: Sandbox) -> None:
    outcome = await python(sandbox, "socket.create_connection(address).recv(1)")
    assert b"ConnectionResetError" in outcome.stderr


@pytest.mark.long_in_a_machine
async def test_streams_that_end_in_every_way_leave_room_for_others(runtime: Runtime) -> None:
    """A table that kept one of them at either end would be full by the last of them."""
    turn = 0

    async def answer(stream: GuestStream) -> None:
        nonlocal turn
        turn += 1
        match turn % 5:
            case 0:
                await stream.read()
            case 1:
                raise ConnectionResetError
            case 2:
                stream.write_eof()
                raise ConnectionResetError
            case 3:
                await stream.write(bytes(400_000))
            case _:
                await stream.linger()

    async with await runtime.start(SandboxSpec()) as sandbox:
        sandbox.channel.serve("egress", answer)
        outcome = await python(
            sandbox,
            "import struct\n"
            f"for n in range({2 * MAX_STREAMS}):\n"
            "    end = socket.socket()\n"
            "    try:\n"
            "        end.connect(address)\n"  # gVisor tells of a reset as early as here
            "        end.settimeout(0.01)\n"
            "        if n % 3: end.sendall(b'x')\n"
            "        if n % 4 == 1: end.shutdown(1)\n"
            "        if n % 7 == 2: end.recv(10)\n"
            "    except OSError: pass\n"
            "    if n % 4 == 2: end.setsockopt(1, 13, struct.pack('ii', 1, 0))\n"  # SO_LINGER
            "    end.close()\n"
            "print('done')",
        )
        assert outcome.stdout == b"done\n", outcome.stderr
        async with asyncio.timeout(30):
            while turn < 2 * MAX_STREAMS:
                await asyncio.sleep(0.01)
        sandbox.channel.serve("egress", echo)
        outcome = await python(
            sandbox,
            "ends = [socket.create_connection(address) for _ in range(150)]\n"
            "for end in ends: end.sendall(b'x')\n"
            "print(sum(end.recv(1) == b'x' for end in ends))",
        )
        assert outcome.stdout == b"150\n", outcome.stderr


async def test_authorities_that_tls_clients_trust_are_in_sight(sandbox: Sandbox) -> None:
    code = "import ssl; print(len(ssl.create_default_context().get_ca_certs()) > 50)"
    outcome = await sandbox.run(Call("python", {"code": code}))
    assert outcome.stdout == b"True\n", outcome.stderr
