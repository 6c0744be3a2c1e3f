"""Idempotency keys on every runtime, through the daemon's real front door (AP-07)."""

from __future__ import annotations

import json
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2

from place import Place
from running_daemon import RunningDaemon


def execute(client: httpx2.Client, place: Place, key: str, command: str) -> httpx2.Response:
    body = {"sandbox_id": place.id, "tool": {"name": "bash", "args": {"command": command}}}
    return client.post("/v1/sandbox/execute", json=body, headers={"idempotency-key": f'"{key}"'})


def runs(served: RunningDaemon, key: str) -> int:
    """How many calls with this key the host has on record as begun."""
    whole = (served.log.parent / "audit.jsonl").read_text().rpartition("\n")[0]
    records = [json.loads(line) for line in whole.splitlines() if key in line]
    return sum(each["kind"] == "intent" for each in records)


def test_AP_07_one_key_is_one_execution_whoever_replays_it_and_when(
    served: RunningDaemon, client: httpx2.Client, place: Place
) -> None:
    key = secrets.token_hex(16)
    count = f"echo run >> {key}; until [ -e {key}.end ]; do sleep 0.05; done; echo ended"
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(execute, client, place, key, count) for _ in range(8)]
        deadline = time.monotonic() + 20
        while not runs(served, key):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        other = execute(client, place, key, f"echo other >> {key}")
        place.run(f"touch {key}.end")
        answers = [each.result() for each in asked]
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    answers.append(execute(client, place, key, count))
    bodies = [each.json() for each in answers]
    assert [each.pop("replayed") for each in bodies].count(False) == 1
    assert bodies == [bodies[0]] * 9
    assert (answers[0].status_code, bodies[0]["result"]) == (200, "ended\n")
    assert runs(served, key) == 1
    assert client.get(f"{place.url}/files", params={"path": key}).text == "run\n"


def test_AP_07_a_sandbox_and_a_process_in_it_are_made_once(client: httpx2.Client) -> None:
    key = secrets.token_hex(16)
    headers = {"idempotency-key": key}
    mark = {"metadata": {"key": key}}
    with ThreadPoolExecutor(3) as threads:
        made = list(
            threads.map(
                lambda _: client.post("/v1/sandboxes", json=mark, headers=headers), range(3)
            )
        )
    (name,) = {each.json()["sandbox_id"] for each in made}
    listed = client.get("/v1/sandboxes", params={"metadata.key": key}).json()["sandboxes"]
    assert [each["sandbox_id"] for each in listed] == [name]
    path = f"/v1/sandboxes/{name}/processes"
    sleep = {"argv": ["sleep", "60"]}
    headers = {"idempotency-key": f"process-{key}"}
    started = [client.post(path, json=sleep, headers=headers).json() for _ in range(2)]
    assert started[0] == started[1]
    assert [each["pid"] for each in client.get(path).json()["processes"]] == [started[0]["pid"]]
    client.delete(f"/v1/sandboxes/{name}")
