"""A named sandbox's life on every runtime, through the daemon's real front door."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx2

from mas_sandbox.api.sandboxes import SandboxInfo, SandboxList
from place import NDJSON, Place
from running_daemon import RunningDaemon

PATIENCE_S = 30.0
COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"


def until(place: Place, reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What is known of a sandbox once that is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached(info := place.info()):
        assert time.monotonic() < deadline, info
        time.sleep(0.05)
    return info


def pages(client: httpx2.Client, **query: str) -> list[list[str]]:
    """The sandboxes that a list shows, page by page."""
    found, cursor = [], None
    while True:
        params = query if cursor is None else query | {"cursor": cursor}
        response = client.get("/v1/sandboxes", params=params)
        page = SandboxList.model_validate(response.json())
        found.append([each.sandbox_id for each in page.sandboxes])
        if (cursor := page.next_cursor) is None:
            return found


def test_it_is_told_what_it_is_and_lists_find_it(
    client: httpx2.Client, served: RunningDaemon
) -> None:
    health = client.get("/v1/sandbox/health").json()
    places = [Place(client, metadata={"run": served.url, "n": str(n)}) for n in range(3)]
    names = [place.id for place in reversed(places)]
    told = SandboxInfo.model_validate(places[0].info())
    assert (told.state, told.runtime, told.isolation) == (
        "running",
        health["runtime"],
        health["isolation"],
    )
    assert told.metadata == {"run": served.url, "n": "0"}
    mine = {"metadata.run": served.url}
    assert pages(client, **mine) == [names]
    assert pages(client, **mine, limit="2") == [names[:2], names[2:]]
    assert pages(client, **mine, **{"metadata.n": "1"}) == [names[1:2]]
    for place in places:
        place.delete()
    assert pages(client, **mine) == [[]]
    assert pages(client, **mine, state="ended") == [names]


def test_its_environment_and_its_policy_hold_in_processes(client: httpx2.Client) -> None:
    place = Place(client, env={"COLOUR": "blue"}, policy={"tools": ["process"]})
    assert place.run("echo $COLOUR")[0] == b"blue\n"
    refused = client.get(f"{place.url}/files", params={"path": "/workspace/x"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "policy_denied")
    place.delete()


def test_paused_it_stands_still_and_resumed_it_goes_on(client: httpx2.Client) -> None:
    place = Place(client, timeout_s=1000)
    place.start(cmd=COUNT, tag="count")
    extended = place.post("extend", {"timeout_s": 2000})
    assert extended["expires_ms"] > time.time() * 1000 + 1_900_000
    paused = place.post("pause")
    assert (paused["state"], paused["expires_ms"]) == ("paused", None)
    refused = client.post(f"{place.url}/processes", json={"cmd": "true"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "invalid_request")
    before, deadline = -1, time.monotonic() + PATIENCE_S
    while (now := client.get(f"{place.url}/processes/count").json()["output_to"]) != before:
        assert time.monotonic() < deadline, now  # what was on its way has come long since
        before = now
        time.sleep(0.5)
    assert place.post("resume")["state"] == "running"
    with client.stream("GET", f"{place.url}/processes/count/events?from={before}") as response:
        lines = response.iter_lines()
        assert [json.loads(next(lines))["type"] for _ in range(3)] == ["start", "stdout", "stdout"]
    assert place.run("echo here")[0] == b"here\n"
    place.delete()


def test_deleted_it_takes_what_runs_in_it_along(client: httpx2.Client) -> None:
    place = Place(client)
    place.start(cmd=COUNT, tag="count")
    with client.stream("GET", f"{place.url}/processes/count/events", headers=NDJSON) as response:
        lines = response.iter_lines()
        assert json.loads(next(lines))["type"] == "start"
        deleted = client.delete(place.url).json()
        last = [json.loads(line) for line in lines][-1]
    assert (deleted["state"], deleted["reason"]) == ("ended", "deleted")
    assert (last["type"], last["exit_code"]) == ("exit", None)
    assert last["error"]["code"] == "interrupted"
    for method, what in (("GET", "/processes"), ("GET", "/files/list?path=."), ("DELETE", "")):
        gone = client.request(method, place.url + what)
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "not_found")


def test_time_that_is_over_or_idle_ends_it_or_pauses_it(client: httpx2.Client) -> None:
    over = Place(client, timeout_s=2, idle_timeout_s=60)
    over.start(cmd="sleep 1000")
    idle = Place(client, idle_timeout_s=1)
    paused = Place(client, timeout_s=1, on_timeout="pause")
    assert until(over, lambda info: info["state"] != "running")["reason"] == "timeout"
    assert until(idle, lambda info: info["state"] != "running")["reason"] == "idle"
    assert until(paused, lambda info: info["state"] == "paused")["reason"] == "timeout"
    assert [over.info()["state"], idle.info()["state"]] == ["ended", "ended"]
    resumed = paused.post("resume", {"timeout_s": 100})
    assert resumed["expires_ms"] > time.time() * 1000 + 90_000
    assert paused.run("echo on")[0] == b"on\n"
    paused.delete()
