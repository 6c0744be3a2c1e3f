"""A `mas-sandboxd` behind an httpx2 transport, as docs/http-api.md describes it.

`HttpDaemon().transport()` goes into `Client(transport=...)` or `AsyncClient`.
`requests` keeps what came in. Tool `echo` answers its arguments; tool `fail` an error
of code `args.code`; `busy` counts down the 429s to answer first.
Not modelled: policies, Host and Origin checks, bounds, concurrency.
"""

from __future__ import annotations

import json
from typing import Any

import httpx2

RUNTIME = {
    "name": "jail",
    "isolation": "process",
    "default": True,
    "available": True,
    "version": "1",
    "reason": "",
    "mend": "",
    "controls": {"memory": {"status": "unavailable", "mechanism": "none", "mend": "delegate"}},
}
SANDBOX = {
    "sandbox_id": "sb_1",
    "state": "running",
    "runtime": "jail",
    "isolation": "process",
    "enforced": ["memory"],
    "metadata": {},
    "timeout_s": None,
    "idle_timeout_s": 600.0,
    "on_timeout": "kill",
    "created_ms": 0,
    "changed_ms": 0,
    "expires_ms": None,
}
TOOL = {
    "name": "echo",
    "description": "Answers its arguments.",
    "input_schema": {"type": "object"},
    "capabilities": ["exec"],
}
USAGE = {"cpu_ms": 3, "mem_mb": 1.5, "wall_ms": 4.25}


class HttpDaemon:
    def __init__(self, token: str | None = None, busy: int = 0) -> None:
        self.token = token
        self.busy = busy
        self.requests: list[httpx2.Request] = []
        self.sandboxes: set[str] = set()

    def transport(self) -> httpx2.MockTransport:
        return httpx2.MockTransport(self.answer)

    def bodies(self) -> list[dict[str, Any]]:
        """The JSON bodies that came in, oldest first."""
        return [json.loads(request.content) for request in self.requests if request.content]

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return problem(401, "policy_denied", "no such token")
        if self.busy:
            self.busy -= 1
            return problem(429, "overloaded", "busy", headers={"retry-after": "0"})
        body = json.loads(request.content) if request.content else {}
        match request.method, request.url.path:
            case "POST", "/v1/sandbox/execute":
                return self.execute(body)
            case "POST", "/v1/sandboxes":
                self.sandboxes.add("sb_1")
                return httpx2.Response(200, json=SANDBOX)
            case "DELETE", path:
                if path.removeprefix("/v1/sandboxes/") not in self.sandboxes:
                    return problem(404, "not_found", "no such sandbox")
                self.sandboxes.clear()
                return httpx2.Response(200, json=SANDBOX | {"state": "ended"})
            case "GET", "/v1/sandbox/health":
                return httpx2.Response(
                    200,
                    json={"status": "ok", "version": "0.1.0", "runtime": "jail"}
                    | {"isolation": "process", "running": 0, "waiting": 0, "sandboxes": 0},
                )
            case "GET", "/v1/runtimes":
                return httpx2.Response(200, json={"runtimes": [RUNTIME]})
            case "GET", "/v1/tools":
                return httpx2.Response(200, json={"tools": [TOOL]})
        return problem(404, "not_found", f"no {request.method} {request.url.path}")

    def execute(self, body: dict[str, Any]) -> httpx2.Response:
        name, args = body["tool"]["name"], body["tool"]["args"]
        reply: dict[str, Any] = {
            "tool_call_id": body.get("tool_call_id", "call_1"),
            "status": "ok",
            "result": args,
            "exit_code": 0,
            "usage": USAGE,
            "isolation": "process",
            "enforced": ["memory", "pids"],
            "field_of_a_newer_daemon": 1,
        }
        if name == "fail":
            error = {"code": args["code"], "message": "scripted", "newer": 1}
            reply |= {"status": "error", "result": None, "error": error}
        return httpx2.Response(200, json=reply)


def problem(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> httpx2.Response:
    return httpx2.Response(
        status, json={"error": {"code": code, "message": message}}, headers=headers
    )
