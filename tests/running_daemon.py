"""Starts the real `mas-sandboxd` for a test, and makes sure it is gone afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOKEN = "test-token-0123456789abcdef"


@dataclass
class RunningDaemon:
    """A daemon that serves HTTP on a loopback port of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    def post(
        self, path: str, body: object, timeout: float = 60, key: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """(HTTP status, body) of a request with the test's token, and an idempotency key."""
        headers = {"content-type": "application/json", "authorization": f"Bearer {TOKEN}"}
        if key is not None:
            headers["idempotency-key"] = key
        request = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode(),
            headers=headers,
        )
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def execute(self, tool: str, args: dict[str, Any], **fields: Any) -> dict[str, Any]:
        """The reply to one call, which must be HTTP 200."""
        body = {"tool": {"name": tool, "args": args}, **fields}
        status, reply = self.post("/v1/sandbox/execute", body)
        assert status == 200, (status, reply)
        return reply


@contextmanager
def daemon(
    state: Path, *flags: str, runtime: str = "jail", launcher: Sequence[str] = ()
) -> Iterator[RunningDaemon]:
    """A daemon with its state in `state`; killed at the end if it still runs.

    `launcher`: what its command line is given to, and becomes it."""
    state.mkdir(parents=True, exist_ok=True)
    log = state / "stderr.log"
    arguments = ["-listen", "127.0.0.1:0", "-auth-token", TOKEN, "-runtime", runtime]
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [
                *(*launcher, sys.executable, "-m", "mas_sandbox.server.main"),
                *(*arguments, "-state-dir", str(state), *flags),
            ],
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            text=True,
        )
    try:
        yield RunningDaemon(process, _url(process, log), log)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def _url(process: subprocess.Popen[str], log: Path) -> str:
    deadline = time.monotonic() + 90  # emulated machines are tried first
    while time.monotonic() < deadline:
        found = re.search(r"listening +(http://\S+)", log.read_text())
        if found:
            return found[1]
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the daemon did not come up: {log.read_text()}")
