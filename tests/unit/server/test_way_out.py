"""What a sandbox may reach, which calls narrow it, and what the audit log has of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.audit.log import AuditLog
from mas_sandbox.policy.grants import NetworkPolicy
from mas_sandbox.policy.model import Policy
from mas_sandbox.server import way_out as way_out_module
from mas_sandbox.server.way_out import NOWHERE, Reach, WayOut, reach_of
from mas_sandbox.wire.errors import ErrorCode, SandboxError

ANYWHERE = Reach(NetworkPolicy(hosts=("a.example", "b.example"), ports=(80,)))


class OneRequest:
    """A stream on which a client asks a proxy for one thing; keeps what it is told."""

    def __init__(self, host: str) -> None:
        self._asked = [f"GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()]
        self.told = b""

    async def read(self, limit: int = 65536) -> bytes:
        return self._asked.pop() if self._asked else b""

    async def write(self, data: bytes) -> None:
        self.told += data

    def write_eof(self) -> None:
        return

    def reset(self) -> None:
        return


def run(
    directory: Path, reach: Reach, use: Callable[[WayOut], Coroutine[Any, Any, None]]
) -> list[dict[str, Any]]:
    """What is recorded of connections while `use` has a way out."""

    async def main() -> None:
        audit = AuditLog.open(directory)
        try:
            await use(WayOut(audit, "alice", "sb_1", reach))
        finally:
            await audit.close()

    asyncio.run(main())
    lines = (directory / "audit.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == "connection"]


async def asked(way_out: WayOut, host: str) -> bytes:
    request = OneRequest(host)
    await way_out.serve(request)  # type: ignore[arg-type] # a double of what is read and written
    return request.told


def test_policies_that_allow_nothing_are_all_the_same() -> None:
    assert reach_of(Policy()) is NOWHERE
    assert reach_of(Policy(network=NetworkPolicy())) is NOWHERE
    assert reach_of(Policy(network=NetworkPolicy(hosts=("a.example",), ports=()))) is NOWHERE
    network = NetworkPolicy(hosts=("a.example",))
    assert reach_of(Policy(network=network, bandwidth_kb_s=5)) == Reach(network, 5)


def test_a_refusal_is_recorded_with_the_calls_that_ran(tmp_path: Path) -> None:
    async def use(way_out: WayOut) -> None:
        with way_out.during("call_1", ANYWHERE), way_out.during("call_2", ANYWHERE):
            assert b"403" in (await asked(way_out, "c.example")).splitlines()[0]

    (record,) = run(tmp_path, ANYWHERE, use)
    assert (record["principal"], record["sandbox_id"]) == ("alice", "sb_1")
    assert record["call_ids"] == ["call_1", "call_2"]
    assert (record["host"], record["port"], record["address"]) == ("c.example", 80, "")
    assert record["decision"]["action"] == "deny"
    assert record["decision"]["rule"] == "network.hosts"


def test_NW_02_a_sandbox_without_a_network_policy_is_told_so(tmp_path: Path) -> None:
    async def use(way_out: WayOut) -> None:
        assert b"allows no network" in await asked(way_out, "a.example")

    assert len(run(tmp_path, NOWHERE, use)) == 1


def test_a_call_that_brings_less_takes_it_from_all_while_it_runs(tmp_path: Path) -> None:
    less = Reach(NetworkPolicy(hosts=("b.example",), ports=(80,)))

    async def use(way_out: WayOut) -> None:
        with way_out.during("call_1", ANYWHERE), way_out.during("call_2", less):
            assert b"a.example is not allowed" in await asked(way_out, "a.example")
        with way_out.during("call_3", NOWHERE):
            assert b"allows no network" in await asked(way_out, "b.example")

    records = run(tmp_path, ANYWHERE, use)
    assert [record["decision"]["rule"] for record in records] == ["network.hosts", "network"]


def test_a_sandbox_cannot_fill_the_log_faster_than_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way_out_module, "RECORDS_AT_ONCE", 3)
    monkeypatch.setattr(way_out_module, "RECORDS_A_SECOND", 0)

    async def use(way_out: WayOut) -> None:
        for _ in range(3):
            await asked(way_out, "c.example")
        with pytest.raises(SandboxError) as refused:
            await asked(way_out, "c.example")
        assert refused.value.code is ErrorCode.OVERLOADED

    assert len(run(tmp_path, ANYWHERE, use)) == 3
