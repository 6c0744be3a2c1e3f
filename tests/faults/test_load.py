"""FI-11: a thousand calls at once, and more than may wait.

FAULT_ROUNDS=100 makes them ten thousand.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import httpx2
import pytest

from faults.dice import rounds
from faults.remains import Remains
from mas_sandbox.audit.verify import verify
from running_daemon import TOKEN, RunningDaemon, daemon

pytestmark = [pytest.mark.serial, pytest.mark.anyio]


def _client(running: RunningDaemon) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=running.url,
        headers={"authorization": f"Bearer {TOKEN}"},
        limits=httpx2.Limits(max_connections=None),
        timeout=300,
        trust_env=False,
    )


async def _call(client: httpx2.AsyncClient, number: int) -> httpx2.Response:
    tool = {"name": "bash", "args": {"command": f"echo {number}; echo {number} >&2"}}
    body = {"tool_call_id": f"call-{number}", "tool": tool}
    return await client.post("/v1/sandbox/execute", json=body)


async def test_FI_11_a_thousand_calls_at_once_each_get_their_own_answer(tmp_path: Path) -> None:
    calls = rounds(10) * 100
    with Remains(tmp_path) as remains, daemon(tmp_path, "-max-queue", str(calls)) as running:
        remains.watch(running.process.pid)
        descriptors = len(os.listdir(f"/proc/{running.process.pid}/fd"))
        async with _client(running) as client:
            responses = await asyncio.gather(*(_call(client, number) for number in range(calls)))
        for number, response in enumerate(responses):
            reply = response.json()
            assert response.status_code == 200, reply
            assert reply["tool_call_id"] == f"call-{number}"
            assert (reply["result"], reply["stderr"]) == (f"{number}\n", f"{number}\n")
            assert reply["isolation"] == "process"
        async with asyncio.timeout(10):  # the daemon hears of closed connections one by one
            while len(os.listdir(f"/proc/{running.process.pid}/fd")) >= descriptors + 50:
                await asyncio.sleep(0.02)
        running.process.terminate()
        assert await asyncio.to_thread(running.process.wait, 30) == 0
        await asyncio.to_thread(remains.settled, killed=False)
    found = verify(tmp_path / "audit.jsonl")
    assert (found.problems, found.calls, found.unfinished) == ([], calls, 0)


async def test_FI_11_beyond_the_queue_calls_are_told_when_to_come_back(tmp_path: Path) -> None:
    with daemon(tmp_path, "-max-queue", "20", "-max-concurrent", "2") as running:
        async with _client(running) as client:
            responses = await asyncio.gather(*(_call(client, number) for number in range(200)))
            refused = [response for response in responses if response.status_code == 429]
            served = [response for response in responses if response.status_code == 200]
            assert len(served) + len(refused) == 200
            assert len(served) >= 22
            assert refused
            for response in refused:
                assert int(response.headers["retry-after"]) >= 1
                assert response.json()["error"]["code"] == "overloaded"
            assert len({response.json()["tool_call_id"] for response in served}) == len(served)
            assert (await _call(client, 1)).json()["result"] == "1\n"
