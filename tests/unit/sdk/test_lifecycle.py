"""The lives of named sandboxes, through both clients, over the real HTTP door."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.http_door import Door, http_door
from mas_sandbox.api.sandboxes import SandboxList
from mas_sandbox.sdk import (
    AsyncClient,
    AsyncSandboxExecutor,
    Client,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    SandboxExecutor,
)
from mas_sandbox.sdk.asked import Asked, lives
from mas_sandbox.server.http import sandboxes as routes

SUM = {"expression": "1"}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    with http_door(tmp_path) as opened:
        yield opened


def test_the_client_opens_lists_pauses_and_ends_sandboxes(door: Door) -> None:
    with Client(door.url) as client:
        one = client.open_sandbox(metadata={"run": "r 1&=?"}, timeout_s=60, on_timeout="pause")
        two = client.open_sandbox(env={"COLOUR": "blue"})
        assert [each.sandbox_id for each in client.sandboxes()] == [two.sandbox_id, one.sandbox_id]
        found = list(client.sandboxes(metadata={"run": "r 1&=?"}, states=["running"]))
        assert found == [client.sandbox_info(one.sandbox_id)] == [one]
        assert client.pause(one.sandbox_id).state == "paused"
        refused = client.execute("bash", {"command": "true"}, sandbox_id=one.sandbox_id)
        with pytest.raises(InvalidRequest, match="resume it first"):
            refused.raise_for_error()
        assert client.resume(one.sandbox_id, timeout_s=500).timeout_s == 500
        assert client.extend(one.sandbox_id, 50).timeout_s == 50
        client.destroy(one.sandbox_id)
        assert client.sandbox_info(one.sandbox_id).state == "ended"
        with pytest.raises(NotFound):
            client.pause("no/such sandbox")


def test_the_async_client_does_the_same(door: Door) -> None:
    async def main() -> None:
        async with AsyncClient(door.url) as client:
            one = await client.open_sandbox(min_isolation="vm")
            assert [each async for each in client.sandboxes()] == [one]
            assert (await client.pause(one.sandbox_id)).state == "paused"
            assert (await client.resume(one.sandbox_id)).state == "running"
            assert (await client.extend(one.sandbox_id, 50)).expires_ms is not None
            assert (await client.sandbox_info(one.sandbox_id)).state == "running"

    asyncio.run(main())


def test_with_a_key_both_clients_get_one_answer_and_one_sandbox(door: Door) -> None:
    key = 'say "once" \\'

    async def main() -> None:
        async with AsyncSandboxExecutor(AsyncClient(door.url)) as executor:
            again = await executor.execute("calculator", SUM, idempotency_key=key)
            assert (again.replayed, again.result) == (True, SUM)
            with pytest.raises(IdempotencyConflict):
                await executor.execute("calculator", idempotency_key=key)
            assert (await executor.client.open_sandbox(idempotency_key="made")) == made

    with SandboxExecutor(Client(door.url)) as executor:
        first = executor.execute("calculator", SUM, idempotency_key=key)
        assert (first.replayed, first.result) == (False, SUM)
        with pytest.raises(IdempotencyConflict):
            executor.execute("calculator", idempotency_key=key)
        made = executor.client.open_sandbox(idempotency_key="made")
        with pytest.raises(InvalidRequest, match="printable ASCII"):
            executor.execute("calculator", SUM, idempotency_key="x" * 256)
    asyncio.run(main())
    (begun,) = door.bench.records("intent")
    assert begun["trace"] == {"idempotency_key": key}


def test_listing_goes_on_to_the_last_page(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    real = routes.records.Query

    def small(*fields: object) -> object:
        asked.append(fields)
        return real(*fields)  # type: ignore[arg-type] # passed on as they came

    monkeypatch.setattr(routes.records, "Query", small)
    monkeypatch.setattr(lives, "page", _two_at_a_time)
    with Client(door.url) as client:
        names = {client.open_sandbox().sandbox_id for _ in range(5)}
        assert {each.sandbox_id for each in client.sandboxes()} == names
    assert len(asked) == 3


def _two_at_a_time(metadata: object, states: object, cursor: str | None) -> Asked[SandboxList]:
    path = "/v1/sandboxes?limit=2" + (f"&cursor={cursor}" if cursor else "")
    return Asked("GET", path, SandboxList)
