"""A real machine with a network device, in a network of this test's own."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from doubles.network_world import ALLOWED, HOST, OTHER, WORLD, NetworkWorld, run, state
from mas_sandbox.policy.grants import NetworkPolicy
from mas_sandbox.runtimes.base import Sandbox, SandboxSpec
from mas_sandbox.runtimes.microvm.runtime import MicrovmRuntime
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.messages import Call

pytestmark = [pytest.mark.anyio, pytest.mark.long]  # it boots, and looks names up, under emulation

POLICY = NetworkPolicy(hosts=("*.example.org",), cidrs=("203.0.113.0/24",), ports=(443,))
_TRY = """
import socket
for target, port in targets:
    try:
        with socket.create_connection((target, port), 10) as end:
            print(end.recv(100).decode())
    except OSError as error:
        print(type(error).__name__, error.errno)
"""
_ASK = """
import socket
try:
    socket.getaddrinfo("secret.evil.example", 443)
except socket.gaierror as error:
    print(error.strerror)
"""


@pytest.fixture
def world() -> Iterator[NetworkWorld]:
    with NetworkWorld() as made:
        yield made


@pytest.fixture
async def runtime(
    world: NetworkWorld, tmp_path: Path, templates: Path
) -> AsyncIterator[MicrovmRuntime]:
    """After each test nothing is left of it on the host's network."""
    config = tmp_path / "config.json"
    network = {
        "enabled": True,
        "tap_device": "mas{id}",
        "allowed_cidrs": ["0.0.0.0/0", "203.0.113.0/24"],
        "allowed_hosts": ["*.example.org"],
    }
    config.write_text(json.dumps({"vmm": "qemu", "network": network}))
    before = state()
    built = build_runtime("microvm", config, templates)
    assert isinstance(built, MicrovmRuntime)
    probe = await built.probe()
    assert probe.available, probe.reason
    yield built
    await built.close()
    assert state() == before


@asynccontextmanager
async def decoy(world: NetworkWorld, address: str) -> AsyncIterator[list[str]]:
    """Says hello to whoever connects; the addresses of those."""
    callers: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append(writer.get_extra_info("peername")[0])
        writer.write(b"hello")
        writer.close()

    server = await asyncio.start_server(serve, sock=world.listener(address, 443))
    async with server:
        yield callers


async def shown(sandbox: Sandbox, tool: str, **args: str) -> str:
    outcome = await sandbox.run(Call(tool, dict(args), timeout_ms=60_000))
    assert outcome.exit_code == 0, outcome.stderr
    return outcome.stdout.decode().strip()


async def test_a_machine_reaches_what_its_policy_and_the_operator_allow(
    world: NetworkWorld, runtime: MicrovmRuntime
) -> None:
    async with (
        decoy(world, ALLOWED) as callers,
        decoy(world, OTHER) as others,
        await runtime.start(SandboxSpec(network=POLICY)) as sandbox,
    ):
        world.seen()
        targets = [(ALLOWED, 443), (ALLOWED, 80), (OTHER, 443), (WORLD, 443), (HOST, 443)]
        began = time.monotonic()
        said = (await shown(sandbox, "python", code=f"targets = {targets}\n{_TRY}")).splitlines()
        assert said[0] == "hello"
        assert all("hello" not in line for line in said[1:])
        # A refusal is told at once; only the host's own addresses are silent.
        assert "timed out" not in " ".join(said[1:4])
        assert time.monotonic() - began < 30
        assert (callers, others) == ([HOST], [])
        assert {(packet.target, packet.port) for packet in world.seen()} == {(ALLOWED, 443)}
        unknown = await shown(sandbox, "python", code=_ASK)
        assert unknown == "Name or service not known"
        assert world.seen() == []
        assert "eth0" in await shown(sandbox, "bash", command="ls /sys/class/net")


async def test_a_machine_whose_policy_allows_none_of_it_has_no_device(
    world: NetworkWorld, runtime: MicrovmRuntime
) -> None:
    nowhere = NetworkPolicy(cidrs=("10.0.0.0/8",))
    async with await runtime.start(SandboxSpec(network=nowhere)) as sandbox:
        assert await shown(sandbox, "bash", command="ls /sys/class/net") == "lo"
        assert run("nft list ruleset") == ""
