"""`LocalExecutor`: tool calls through a daemon process of one's own, no server needed."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from types import TracebackType
from typing import Any, Self, Unpack

from mas_sandbox.api.models import ToolInfo

from .calls import CallOptions, encode, line_body
from .daemon_command import daemon_command, daemon_flags
from .errors import DaemonLost
from .http import DEFAULT_TIMEOUT_S
from .local_daemon import LocalDaemon
from .result import ToolResult


class LocalExecutor:
    """Runs each call through `mas-sandboxd` on its stdin and stdout.

        with LocalExecutor(runtime="jail") as executor:
            print(executor.execute("calculator", {"expression": "15 * 8 + 7"}).result)

    One process per call; with `keep_alive=True` one process for all, which any number
    of threads may share, and which is started anew after it died. `command`: the
    daemon's argv, found by `daemon_command()` where it is not given. `runtime` and
    `policy_file`: its `-runtime` and `-policy`. `timeout`: seconds to wait for an
    answer; more than the policy gives a call.

    `execute` returns failed calls as results and raises `DaemonUnavailable`,
    `DaemonLost` (with the daemon's last lines on stderr), `InvalidRequest`,
    `Overloaded` or `BadReply`. No process outlives its call, or `close()`.
    """

    def __init__(
        self,
        command: Sequence[str] | None = None,
        *,
        keep_alive: bool = False,
        runtime: str | None = None,
        policy_file: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> None:
        chosen = daemon_command() if command is None else command
        self._command = [*chosen, *daemon_flags(runtime, policy_file)]
        self._keep_alive = keep_alive
        self._timeout_s = timeout
        self._kept: LocalDaemon | None = None
        self._lock = threading.Lock()

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `CallOptions` for what may go with it."""
        call_id = options.get("tool_call_id") or uuid.uuid4().hex
        line = encode(line_body(call_id, tool, args, options))
        if self._keep_alive:
            return self._wait(self._running_daemon(), call_id, line)
        daemon = LocalDaemon(self._command)
        try:
            return self._wait(daemon, call_id, line, last=True)
        finally:
            daemon.close()

    def tools(self) -> tuple[ToolInfo, ...]:
        """The built-in tools. Whether a policy allows one is decided call by call."""
        from mas_sandbox.api.catalog import BUILTIN_TOOLS

        return BUILTIN_TOOLS

    def close(self) -> None:
        """End the kept process; calls that are still running fail with DaemonLost."""
        with self._lock:
            daemon, self._kept = self._kept, None
        if daemon is not None:
            daemon.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _running_daemon(self) -> LocalDaemon:
        with self._lock:
            if self._kept is not None and self._kept.ended:
                self._kept.close()
                self._kept = None
            if self._kept is None:
                self._kept = LocalDaemon(self._command)
            return self._kept

    def _wait(
        self, daemon: LocalDaemon, call_id: str, line: bytes, *, last: bool = False
    ) -> ToolResult:
        future = daemon.submit(call_id, line)
        if last:
            daemon.end_of_calls()
        try:
            return future.result(self._timeout_s)
        except FutureTimeout as exc:
            raise no_answer(self._timeout_s) from exc


def no_answer(timeout_s: float) -> DaemonLost:
    """The executor's own deadline passed."""
    return DaemonLost(
        f"mas-sandboxd has not answered within {timeout_s:g} s; "
        "give the executor a longer `timeout` than the policy gives the call"
    )
