"""Requests for the processes of a sandbox."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict
from urllib.parse import quote

from mas_sandbox.api.live import ProcessInfo, ProcessList

from ..errors import InvalidRequest
from . import Asked, query, sandbox_path

if TYPE_CHECKING:
    from mas_sandbox.api.live import OnDisconnect

    from ..calls import Body

MAX_WAIT_S = 60.0
"""How long one request waits for a process to end: what is between here and the daemon may
not let an answer come later."""


class CommandOptions(TypedDict, total=False):
    """How a program is started.

    `cwd`: its directory; `env`: variables beside the sandbox's; `user`: the one that calls
    run as; `timeout`: seconds after which it is ended, as long as the sandbox lives where
    missing.
    """

    cwd: str | None
    env: Mapping[str, str] | None
    user: str | None
    timeout: float | None


def start_body(
    command: str | Sequence[str],
    options: CommandOptions,
    *,
    pty: tuple[int, int] | None = None,
    tag: str | None = None,
    stdin: bool = True,
    on_disconnect: OnDisconnect = "detach",
) -> Body:
    """The body that starts a process: a string goes to a shell, a list is run as it is.

    >>> start_body(["ls", "-l"], {"timeout": 2.5})
    {'argv': ['ls', '-l'], 'timeout_ms': 2500, 'on_disconnect': 'detach'}
    """
    timeout = options.get("timeout")
    body: dict[str, Any] = {
        "cmd": command if isinstance(command, str) else None,
        "argv": None if isinstance(command, str) else list(command),
        "cwd": options.get("cwd"),
        "env": dict(options.get("env") or {}) or None,
        "user": options.get("user"),
        "pty": {"rows": pty[0], "cols": pty[1]} if pty else None,
        "tag": tag,
        "timeout_ms": None if timeout is None else milliseconds(timeout),
        "stdin": None if stdin else False,
        "on_disconnect": on_disconnect,
    }
    return {name: value for name, value in body.items() if value is not None}


class Deadline:
    """So many seconds from now; None for never."""

    def __init__(self, seconds: float | None) -> None:
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float:
        return math.inf if self._at is None else self._at - time.monotonic()


def milliseconds(seconds: float) -> int:
    """At least one, for none would be no limit. Raises InvalidRequest for what is no time."""
    if not 0 < seconds < 1e9:
        raise InvalidRequest(f"timeout={seconds!r}: give seconds, more than 0; None for no limit")
    return max(1, round(seconds * 1000))


def processes_path(sandbox_id: str) -> str:
    return sandbox_path(sandbox_id, "processes")


def process_path(sandbox_id: str, which: str | int, action: str = "") -> str:
    """One process, by its pid or its tag, or what is done with it."""
    place = f"{processes_path(sandbox_id)}/{quote(str(which), safe='')}"
    return f"{place}/{action}" if action else place


def start(sandbox_id: str, body: Body) -> Asked[ProcessInfo]:
    return Asked("POST", processes_path(sandbox_id), ProcessInfo, body)


def listed(sandbox_id: str) -> Asked[ProcessList]:
    return Asked("GET", processes_path(sandbox_id), ProcessList)


def about(sandbox_id: str, which: str | int) -> Asked[ProcessInfo]:
    return Asked("GET", process_path(sandbox_id, which), ProcessInfo)


def attached(
    sandbox_id: str, pid: int, action: str, from_offset: int, on_disconnect: OnDisconnect
) -> str:
    """Where its events are, over HTTP (`events`) or a WebSocket (`ws`)."""
    fields = {"from": from_offset, "on_disconnect": on_disconnect}
    return query(process_path(sandbox_id, pid, action), **fields)


def stdin(sandbox_id: str, pid: int, data: bytes, *, eof: bool = False) -> Asked[ProcessInfo]:
    path = query(process_path(sandbox_id, pid, "stdin"), eof=eof or None)
    return Asked("POST", path, ProcessInfo, data)


def signalled(sandbox_id: str, pid: int, signal: str | int) -> Asked[ProcessInfo]:
    return Asked("POST", process_path(sandbox_id, pid, "signal"), ProcessInfo, {"signal": signal})


def resized(sandbox_id: str, pid: int, rows: int, cols: int) -> Asked[ProcessInfo]:
    body = {"rows": rows, "cols": cols}
    return Asked("POST", process_path(sandbox_id, pid, "resize"), ProcessInfo, body)


def waited(sandbox_id: str, pid: int, seconds: float) -> Asked[ProcessInfo]:
    body = {"timeout_ms": max(1, round(min(seconds, MAX_WAIT_S) * 1000))}
    return Asked("POST", process_path(sandbox_id, pid, "wait"), ProcessInfo, body)


def killed(sandbox_id: str, pid: int) -> Asked[ProcessInfo]:
    return Asked("DELETE", process_path(sandbox_id, pid), ProcessInfo)
