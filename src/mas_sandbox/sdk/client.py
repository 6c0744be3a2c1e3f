"""`Client`: the HTTP API of a running daemon."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from mas_sandbox.api.models import Health, RuntimeInfo, RuntimeList, ToolInfo, ToolList

from . import http
from .asked import Asked, lives
from .calls import CallOptions, http_body
from .connection import Connection
from .result import ToolResult

if TYPE_CHECKING:
    import httpx2

    from mas_sandbox.api.sandboxes import SandboxInfo, State

    from .sandbox import Sandbox


class Client:
    """A connection pool to one `mas-sandboxd`; safe for several threads.

        with Client() as client:
            print(client.execute("bash", {"command": "echo hello"}).result)

    `url` and `token` default to MAS_SANDBOX_URL and MAS_SANDBOX_TOKEN. `timeout`:
    seconds to wait for an answer; more than the policy gives a call. `retries`: how
    often a call that the daemon was too busy to take is sent again, after the wait it
    asked for (30 s at most). Proxies named in the environment are not used, so that
    calls and token go nowhere else; `transport` is httpx2's, for whoever needs one.

    Methods raise `CallError`: `DaemonUnavailable`, `DaemonLost`, `Unauthenticated`,
    `InvalidRequest`, `NotFound`, `Overloaded`, `BadReply`, `InternalError`.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = http.DEFAULT_TIMEOUT_S,
        retries: int = 0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.connection = Connection(
            url, token, timeout=timeout, retries=retries, transport=transport
        )
        self.url = self.connection.url

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `CallOptions` for what may go with it.

        Returns failed calls too: `result.ok` tells, `result.raise_for_error()` raises.
        """
        body = http_body(tool, args, options)
        key = options.get("idempotency_key")
        return self.connection.ask(Asked("POST", http.EXECUTE, ToolResult, body, key))

    def sandbox(self, **options: Unpack[lives.SandboxOptions]) -> Sandbox:
        """Start a sandbox, which the end of a `with` block ends.

        with client.sandbox() as sandbox:
            sandbox.execute("write_file", {"path": "a.txt", "content": "hello"})
            sandbox.execute("read_file", {"path": "a.txt"})
        """
        from .sandbox import Sandbox

        return Sandbox(self, self.open_sandbox(**options), ends=True)

    def open_sandbox(self, **options: Unpack[lives.SandboxOptions]) -> SandboxInfo:
        """Start a sandbox that lives until its time is over, it is idle, or it is destroyed."""
        return self.connection.ask(lives.opened(options))

    def sandboxes(
        self, *, metadata: Mapping[str, str] | None = None, states: Sequence[State] = ()
    ) -> Iterator[SandboxInfo]:
        """The caller's sandboxes, newest first, page by page. `metadata`: what theirs must
        hold; `states`: running, paused and interrupted where none are given."""
        cursor = None
        while True:
            page = self.connection.ask(lives.page(metadata, states, cursor))
            yield from page.sandboxes
            cursor = page.next_cursor
            if cursor is None:
                return

    def sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """How a sandbox is, or how it ended; raises NotFound when there is none of that id."""
        return self.connection.ask(lives.about(sandbox_id))

    def extend(self, sandbox_id: str, timeout_s: int) -> SandboxInfo:
        """Let a sandbox live for so long from now on."""
        return self.connection.ask(lives.changed(sandbox_id, "extend", timeout_s))

    def pause(self, sandbox_id: str) -> SandboxInfo:
        """Stop everything in a sandbox where it stands; raises InvalidRequest while calls run."""
        return self.connection.ask(lives.changed(sandbox_id, "pause"))

    def resume(self, sandbox_id: str, timeout_s: int | None = None) -> SandboxInfo:
        """Let a paused sandbox go on, for `timeout_s` where that is given."""
        return self.connection.ask(lives.changed(sandbox_id, "resume", timeout_s))

    def destroy(self, sandbox_id: str) -> SandboxInfo:
        """End a sandbox and all it holds; raises NotFound when there is none of that id."""
        return self.connection.ask(lives.ended(sandbox_id))

    def health(self) -> Health:
        """How the daemon is: version, runtime, isolation, calls running and waiting."""
        return self.connection.ask(Asked("GET", http.HEALTH, Health))

    def tools(self) -> tuple[ToolInfo, ...]:
        """The tools that the caller's policy allows, described for a model."""
        return self.connection.ask(Asked("GET", http.TOOLS, ToolList)).tools

    def runtimes(self) -> tuple[RuntimeInfo, ...]:
        """The daemon's runtimes, weakest first, with what its host enforces in each."""
        return self.connection.ask(Asked("GET", http.RUNTIMES, RuntimeList)).runtimes

    def close(self) -> None:
        """Close the connections. Named sandboxes live on in the daemon."""
        self.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
