"""A daemon process that speaks JSON lines, and the threads that listen to it."""

from __future__ import annotations

import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import IO, cast

from .calls import decode_line
from .errors import BadReply, CallError, DaemonLost, DaemonUnavailable, InvalidRequest, Overloaded
from .result import ToolResult

STDERR_LINES = 20
"""How much of a dead daemon's last words an error carries."""
EXIT_GRACE_S = 5.0
"""An idle daemon's time to leave after its stdin was closed."""
LAST_STEPS_S = 0.5
"""The rest of its exit, once its stdout is closed."""
TERMINATE_GRACE_S = 2.0
"""Its time to leave after SIGTERM, before SIGKILL."""


class LocalDaemon:
    """One `mas-sandboxd` process; `submit` and `close` may be called from any thread.

    Raises DaemonUnavailable when the program cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        try:
            # A session of its own: Ctrl-C reaches us, and we end it in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as exc:
            raise cannot_start(command, exc) from exc
        self._stdin = cast(IO[bytes], self._process.stdin)
        self._pending: dict[str, Future[ToolResult]] = {}
        self._ended = False
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self._last_words: deque[str] = deque(maxlen=STDERR_LINES)
        self._listeners = [
            threading.Thread(target=target, name=f"mas-sandboxd {target.__name__}", daemon=True)
            for target in (self._read_stderr, self._read_replies)
        ]
        for listener in self._listeners:
            listener.start()

    @property
    def ended(self) -> bool:
        """Whether it can take no more calls."""
        return self._ended

    def submit(self, call_id: str, line: bytes) -> Future[ToolResult]:
        """Send one request line; the future fails with a CallError when the daemon dies."""
        future: Future[ToolResult] = Future()
        with self._lock:
            if call_id in self._pending:
                raise InvalidRequest(f"a call {call_id!r} is already running; use another id")
            if self._ended:
                raise lost(self._process.poll(), self._last_words, began=False)
            self._pending[call_id] = future
        # When it is dying, the reader of its stdout reports how.
        with self._writing, suppress(OSError, ValueError):
            self._stdin.write(line + b"\n")
            self._stdin.flush()
        return future

    def end_of_calls(self) -> None:
        """No more calls will come: the daemon finishes what runs, and exits."""
        with self._writing:
            close_quietly(self._stdin)

    def close(self) -> None:
        """End the process, at once where a call is still running, and reap it."""
        with self._lock:
            busy = bool(self._pending)
        if not busy:
            self.end_of_calls()
            # The end of its output is seen at once; Popen.wait with a timeout polls.
            self._listeners[1].join(EXIT_GRACE_S)
            self._exit_within(LAST_STEPS_S)
        for end in (self._process.terminate, self._process.kill):
            if self._process.poll() is None:
                end()
                self._exit_within(TERMINATE_GRACE_S)
        self._process.wait()
        for listener in self._listeners:
            # Bounded: a stray grandchild may hold the pipe's other end open.
            listener.join(TERMINATE_GRACE_S)
        self.end_of_calls()

    def _read_replies(self) -> None:
        failure: CallError | None = None
        with cast(IO[bytes], self._process.stdout) as stdout:
            try:
                for line in stdout:
                    self._settle(line)
            except BadReply as exc:
                failure = exc
                self._process.terminate()
        self._fail_pending(failure)

    def _settle(self, line: bytes) -> None:
        call_id, outcome = decode_line(line)
        if call_id is None:
            raise unattributed(outcome)
        with self._lock:
            future = self._pending.pop(call_id, None)
        if future is None:
            return  # whoever asked has stopped waiting
        if isinstance(outcome, Overloaded):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    def _fail_pending(self, failure: CallError | None) -> None:
        self._listeners[0].join(TERMINATE_GRACE_S)
        with self._lock:
            self._ended = True
            pending, self._pending = self._pending, {}
        if not pending:
            return
        if failure is None:
            failure = lost(self._exit_within(TERMINATE_GRACE_S), self._last_words)
        for future in pending.values():
            # An exception each: they are raised in different threads.
            future.set_exception(type(failure)(failure.message))

    def _exit_within(self, grace_s: float) -> int | None:
        try:
            return self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            return None

    def _read_stderr(self) -> None:
        with cast(IO[bytes], self._process.stderr) as stderr:
            for line in stderr:
                self._last_words.append(line.decode("utf-8", "backslashreplace").rstrip())


def cannot_start(command: Sequence[str], exc: OSError) -> DaemonUnavailable:
    """The daemon's program is missing or not executable."""
    return DaemonUnavailable(
        f"cannot start {command[0] if command else 'mas-sandboxd'} ({exc.strerror}); "
        "install mas-sandbox, or set MAS_SANDBOXD to the path of mas-sandboxd"
    )


def lost(exit_status: int | None, last_words: Sequence[str], *, began: bool = True) -> DaemonLost:
    """The daemon ended under a call, or before it where that had not begun. `exit_status`:
    negative for a signal, None unknown."""
    match exit_status:
        case None:
            how = "closed its output"
        case signal if signal < 0:
            how = f"was ended by signal {-signal}"
        case status:
            how = f"exited with status {status}"
    call = (
        "it answered; the call may or may not have run" if began else "the call, which did not run"
    )
    said = "\n".join(last_words)
    return DaemonLost(
        f"mas-sandboxd {how} before {call}" + (f". It said last:\n{said}" if said else "")
    )


def unattributed(outcome: ToolResult | Overloaded) -> BadReply:
    """A reply that names no call: the daemon did not understand a line of ours."""
    if isinstance(outcome, Overloaded):
        reason = outcome.message
    else:
        reason = outcome.error.message if outcome.error else "a result without an id"
    return BadReply(f"mas-sandboxd did not understand a request line: {reason}")


def close_quietly(stream: IO[bytes]) -> None:
    """Close; what is still buffered for a dead reader is dropped."""
    with suppress(OSError):
        stream.close()
