"""`Client`: the HTTP API of a running daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from mas_sandbox.api.models import (
    CreateReply,
    DestroyReply,
    Health,
    RuntimeInfo,
    RuntimeList,
    ToolInfo,
    ToolList,
)
from mas_sandbox.api.sandboxes import SandboxInfo, SandboxList

from . import http
from .calls import Body, CallOptions, decode, encode, http_body, plain
from .errors import NotFound, Overloaded
from .lifecycle import SANDBOXES, SandboxOptions, list_path, open_body, sandbox_path
from .result import ToolResult

if TYPE_CHECKING:
    import httpx2

    from mas_sandbox.api.sandboxes import State
    from mas_sandbox.policy.model import Policy


class Sandbox:
    """One named sandbox: files written by one call are there for the next.

    `id` names it in other clients, `info` says what walls are around it.
    """

    def __init__(self, client: Client, info: CreateReply) -> None:
        self._client = client
        self.info = info
        self.id = info.sandbox_id

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """`Client.execute` in this sandbox."""
        options["sandbox_id"] = self.id
        return self._client.execute(tool, args, **options)


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
        import httpx2

        self.url = http.daemon_url(url)
        self._retries = retries
        self._failures = (httpx2.HTTPError, httpx2.InvalidURL)
        self._http = httpx2.Client(
            headers=http.headers(token),
            timeout=httpx2.Timeout(timeout, connect=min(timeout, http.CONNECT_TIMEOUT_S)),
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            trust_env=False,
            transport=transport,
        )

    def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> ToolResult:
        """Run one tool; see `CallOptions` for what may go with it.

        Returns failed calls too: `result.ok` tells, `result.raise_for_error()` raises.
        """
        content = self._send("POST", http.EXECUTE, http_body(tool, args, options))
        return decode(ToolResult, content)

    def create(
        self,
        *,
        policy: Policy | Mapping[str, Any] | None = None,
        idle_timeout_s: int | None = None,
    ) -> CreateReply:
        """Start a sandbox that lives until it is destroyed or idle for `idle_timeout_s`."""
        content = self._send("POST", http.CREATE, http.create_body(policy, idle_timeout_s))
        return decode(CreateReply, content)

    def destroy(self, sandbox_id: str) -> None:
        """End a sandbox and all it holds; raises NotFound when there is none of that id."""
        content = self._send("POST", http.DESTROY, {"sandbox_id": sandbox_id})
        decode(DestroyReply, content)

    @contextmanager
    def sandbox(
        self,
        *,
        policy: Policy | Mapping[str, Any] | None = None,
        idle_timeout_s: int | None = None,
    ) -> Iterator[Sandbox]:
        """A sandbox for the length of a `with` block.

        with client.sandbox() as sandbox:
            sandbox.execute("write_file", {"path": "a.txt", "content": "hello"})
            sandbox.execute("read_file", {"path": "a.txt"})
        """
        sandbox = Sandbox(self, self.create(policy=policy, idle_timeout_s=idle_timeout_s))
        try:
            yield sandbox
        finally:
            # It may have died, or been idle for too long: gone is what is asked for.
            with suppress(NotFound):
                self.destroy(sandbox.id)

    def open_sandbox(self, **options: Unpack[SandboxOptions]) -> SandboxInfo:
        """Start a sandbox that lives until its time is over, it is idle, or it is deleted."""
        content = self._send("POST", SANDBOXES, open_body(options))
        return decode(SandboxInfo, content)

    def sandboxes(
        self, *, metadata: Mapping[str, str] | None = None, states: Sequence[State] = ()
    ) -> Iterator[SandboxInfo]:
        """The caller's sandboxes, newest first, page by page. `metadata`: what theirs must
        hold; `states`: running, paused and interrupted where none are given."""
        cursor = None
        while True:
            content = self._send("GET", list_path(metadata, states, cursor))
            page = decode(SandboxList, content)
            yield from page.sandboxes
            cursor = page.next_cursor
            if cursor is None:
                return

    def sandbox_info(self, sandbox_id: str) -> SandboxInfo:
        """How a sandbox is, or how it ended; raises NotFound when there is none of that id."""
        content = self._send("GET", sandbox_path(sandbox_id))
        return decode(SandboxInfo, content)

    def extend(self, sandbox_id: str, timeout_s: int) -> SandboxInfo:
        """Let a sandbox live for so long from now on."""
        return self._change(sandbox_id, "extend", {"timeout_s": timeout_s})

    def pause(self, sandbox_id: str) -> SandboxInfo:
        """Stop everything in a sandbox where it stands; raises InvalidRequest while calls run."""
        return self._change(sandbox_id, "pause", {})

    def resume(self, sandbox_id: str, timeout_s: int | None = None) -> SandboxInfo:
        """Let a paused sandbox go on, for `timeout_s` where that is given."""
        return self._change(sandbox_id, "resume", plain({"timeout_s": timeout_s}))

    def _change(self, sandbox_id: str, action: str, body: Body) -> SandboxInfo:
        content = self._send("POST", sandbox_path(sandbox_id, action), body)
        return decode(SandboxInfo, content)

    def health(self) -> Health:
        """How the daemon is: version, runtime, isolation, calls running and waiting."""
        return decode(Health, self._send("GET", http.HEALTH))

    def tools(self) -> tuple[ToolInfo, ...]:
        """The tools that the caller's policy allows, described for a model."""
        return decode(ToolList, self._send("GET", http.TOOLS)).tools

    def runtimes(self) -> tuple[RuntimeInfo, ...]:
        """The daemon's runtimes, weakest first, with what its host enforces in each."""
        return decode(RuntimeList, self._send("GET", http.RUNTIMES)).runtimes

    def close(self) -> None:
        """Close the connections. Named sandboxes live on in the daemon."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, method: str, path: str, body: Body | None = None) -> bytes:
        for attempt in range(self._retries):
            try:
                return self._send_once(method, path, body)
            except Overloaded as error:
                time.sleep(http.retry_wait(error, attempt))
        return self._send_once(method, path, body)

    def _send_once(self, method: str, path: str, body: Body | None) -> bytes:
        try:
            response = self._http.request(
                method,
                self.url + path,
                content=None if body is None else encode(body),
                headers=None if body is None else http.JSON_BODY,
            )
        except self._failures as exc:
            raise http.error_from(exc, self.url) from exc
        return http.content_of(response)
