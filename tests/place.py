"""A named sandbox of a running daemon, as a client sees it over HTTP."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import Any

import httpx2

from published import check
from running_daemon import TOKEN, RunningDaemon

NDJSON = {"accept": "application/x-ndjson"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def client_of(running: RunningDaemon) -> httpx2.Client:
    return httpx2.Client(base_url=running.url, headers=BEARER, timeout=60)


class Place:
    """`fields`: of the body that it is created with."""

    def __init__(self, client: httpx2.Client, **fields: Any) -> None:
        self.client = client
        response = client.post("/v1/sandboxes", json=fields)
        assert response.status_code == 200, response.text
        self.id = response.json()["sandbox_id"]
        self.url = f"/v1/sandboxes/{self.id}"

    def run(self, cmd: str, **body: Any) -> tuple[bytes, bytes, dict[str, Any]]:
        """What a shell command writes to stdout and stderr, and its exit."""
        body |= {"cmd": cmd}
        with self.client.stream(
            "POST", f"{self.url}/processes", json=body, headers=NDJSON
        ) as response:
            assert response.status_code == 200, response.read()
            events = [json.loads(line) for line in response.iter_lines()]
        for event in events:
            check("startProcessEvents", event)
        assert events[0]["type"] == "start", events
        return text(events, "stdout"), text(events, "stderr"), events[-1]

    def start(self, **body: Any) -> dict[str, Any]:
        """What is told of a process that runs."""
        return self.post("processes", body)

    def post(self, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """The answer to a POST, which must be a 200."""
        response = self.client.post(f"{self.url}/{what}", json=body or {})
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def info(self) -> dict[str, Any]:
        """What is known of it, whether or not it is still there."""
        response = self.client.get(self.url)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def delete(self) -> None:
        """End it, if it has not ended."""
        assert self.client.delete(self.url).status_code in (200, 404)


def text(events: list[dict[str, Any]], *kinds: str) -> bytes:
    """What the events of these kinds say that was written."""
    return b"".join(b64decode(event["data"]) for event in events if event["type"] in kinds)
