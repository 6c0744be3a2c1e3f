"""`sandbox.processes`: programs that run in a sandbox, watched and steered."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from mas_sandbox.api.live import Started

from .asked import processes as asked
from .errors import CallError, ToolFailed
from .events import PROCESS, Happened
from .finished import Collecting, Finished
from .stream import Stream

if TYPE_CHECKING:
    from mas_sandbox.api.live import OnDisconnect, ProcessInfo

    from .attachment import Attachment
    from .connection import Connection


class Process:
    """One process of a sandbox. Iterating over it tells its events from its beginning.

    `pid`, `tag`: what it is known by; `info`: how it was when it was last asked about.
    """

    def __init__(
        self,
        connection: Connection,
        sandbox_id: str,
        info: ProcessInfo,
        on_disconnect: OnDisconnect = "detach",
    ) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id
        self._on_disconnect = on_disconnect
        self.info = info
        self.pid = info.pid
        self.tag = info.tag

    def events(self, from_offset: int = 0) -> Stream[Happened]:
        """What it has written so far, from an offset on, what it writes, and its exit.

        `Started` first; `Output` with `type`, `offset` and `data` in bytes; `Gap` where
        output is no longer kept; `Exited` last.
        """
        path = self._attached("events", from_offset)
        return Stream(self._connection.events("GET", path, PROCESS))

    def attach(self, from_offset: int = 0) -> Attachment:
        """The same over a WebSocket, which takes input as well."""
        return _attachment(self._connection, self._attached("ws", from_offset))

    def write(self, data: bytes | str) -> None:
        """Write all of it to its standard input, as fast as it reads. Raises ToolFailed where
        that has been closed, or the process has ended."""
        content = data.encode() if isinstance(data, str) else data
        request = asked.stdin(self._sandbox_id, self.pid, content)
        self.info = self._connection.ask(request, waits_s=math.inf)

    def close_stdin(self) -> None:
        """Let it read the end of its standard input."""
        self.info = self._connection.ask(asked.stdin(self._sandbox_id, self.pid, b"", eof=True))

    def signal(self, signal: str | int) -> None:
        """Send `SIGINT`, or another by name or number, to its process group; nothing where
        it has ended."""
        self.info = self._connection.ask(asked.signalled(self._sandbox_id, self.pid, signal))

    def resize(self, rows: int, cols: int) -> None:
        """Tell its terminal its size; raises InvalidRequest where it has none."""
        self.info = self._connection.ask(asked.resized(self._sandbox_id, self.pid, rows, cols))

    def wait(self, timeout: float | None = None) -> ProcessInfo:
        """How it ended; or how it is after `timeout` seconds: `state` is `running` then."""
        deadline = asked.Deadline(timeout)
        while True:
            request = asked.waited(self._sandbox_id, self.pid, deadline.left())
            self.info = self._connection.ask(request, waits_s=asked.MAX_WAIT_S)
            if self.info.state == "exited" or deadline.left() <= 0:
                return self.info

    def kill(self) -> ProcessInfo:
        """End it and all that it started."""
        self.info = self._connection.ask(asked.killed(self._sandbox_id, self.pid))
        return self.info

    def refresh(self) -> ProcessInfo:
        """How it is now."""
        self.info = self._connection.ask(asked.about(self._sandbox_id, self.pid))
        return self.info

    def __iter__(self) -> Iterator[Happened]:
        return self.events()

    def __repr__(self) -> str:
        return f"<Process {self.pid} {self.tag or self.info.cmd or list(self.info.argv)!r}>"

    def _attached(self, action: str, from_offset: int) -> str:
        return asked.attached(self._sandbox_id, self.pid, action, from_offset, self._on_disconnect)


class Processes:
    """The processes of one sandbox. They outlive the request that started them, and this
    program, and never their sandbox."""

    def __init__(self, connection: Connection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    def start(
        self,
        command: str | Sequence[str],
        *,
        pty: tuple[int, int] | None = None,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "detach",
        **options: Unpack[asked.CommandOptions],
    ) -> Process:
        """Start a program, or a command for a shell.

        `pty`: a terminal of so many rows and columns instead of pipes; `tag`: a name of your
        own to find it by; `on_disconnect`: what becomes of it when whoever reads its events
        goes away, `detach` or `cancel`; see `CommandOptions` for the rest.
        """
        body = asked.start_body(command, options, pty=pty, tag=tag, on_disconnect=on_disconnect)
        info = self._connection.ask(asked.start(self._sandbox_id, body))
        return Process(self._connection, self._sandbox_id, info, on_disconnect)

    def stream(
        self,
        command: str | Sequence[str],
        *,
        stdin: bool = False,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "cancel",
        **options: Unpack[asked.CommandOptions],
    ) -> Stream[Happened]:
        """Start a program and tell its events, none of which is missed: `Started`, with its
        pid, is the first. `stdin`: whether something will be written to it."""
        body = asked.start_body(command, options, tag=tag, stdin=stdin, on_disconnect=on_disconnect)
        path = asked.processes_path(self._sandbox_id)
        return Stream(self._connection.events("POST", path, PROCESS, body))

    def open(
        self,
        command: str | Sequence[str],
        *,
        pty: tuple[int, int] | None = None,
        tag: str | None = None,
        on_disconnect: OnDisconnect = "cancel",
        **options: Unpack[asked.CommandOptions],
    ) -> Attachment:
        """Start a program at the other end of a WebSocket, to read and to write; `Started` is
        the first of its events, and none is missed."""
        body = asked.start_body(command, options, pty=pty, tag=tag, on_disconnect=on_disconnect)
        path = asked.processes_path(self._sandbox_id) + "/ws"
        return _attachment(self._connection, path).begin(body)

    def run(
        self,
        command: str | Sequence[str],
        *,
        stdin: bytes | str | None = None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
        **options: Unpack[asked.CommandOptions],
    ) -> Finished:
        """Run a program to its end; see `Sandbox.run`."""
        content = stdin.encode() if isinstance(stdin, str) else stdin
        collecting = Collecting(on_stdout, on_stderr)
        with self.stream(command, stdin=bool(content), **options) as events:
            started = next(events)
            with self._feeding(events, started, content):
                for event in events:
                    collecting.take(event)
        return collecting.finished()

    @contextmanager
    def _feeding(
        self, events: Stream[Happened], started: Happened, content: bytes | None
    ) -> Iterator[None]:
        """Writes to a process while its output is read, for it may do both by turns."""
        if not content or not isinstance(started, Started):
            yield
            return
        request = asked.stdin(self._sandbox_id, started.pid, content, eof=True)
        failure: list[CallError] = []

        def feed() -> None:
            try:
                self._connection.ask(request, waits_s=math.inf)
            except ToolFailed:
                pass  # it does not read all of it, which is its own affair
            except CallError as error:
                failure.append(error)

        feeding = threading.Thread(target=feed, name="stdin of a sandbox", daemon=True)
        feeding.start()
        try:
            yield
        except BaseException:
            events.close()  # which ends the process, and so what waits for it to read
            raise
        finally:
            feeding.join()
        for error in failure:
            raise error

    def list(self) -> tuple[ProcessInfo, ...]:
        """Those that run, then the last that have ended."""
        return self._connection.ask(asked.listed(self._sandbox_id)).processes

    def get(self, pid_or_tag: int | str) -> Process:
        """One of them; raises NotFound."""
        info = self._connection.ask(asked.about(self._sandbox_id, pid_or_tag))
        return Process(self._connection, self._sandbox_id, info)


def _attachment(connection: Connection, path: str) -> Attachment:
    from .attachment import Attachment

    return Attachment(connection.socket(path), connection.url)
