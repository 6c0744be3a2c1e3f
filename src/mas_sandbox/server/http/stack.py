"""What a request passes through before it reaches a route, outermost first.

Each layer is a plain ASGI application around the next. The order is the one list
in `stack`: who may speak at all comes before who it is, and that before a byte of
body is read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.strict_json import MAX_BYTES

from ..auth import Authenticator
from ..calls import Caller
from ..listen import HostNames
from ..live.ports import Ports
from ..live.signing import Signer
from .ports_door import PortDoor
from .problems import problem
from .uploads import Paced, is_streamed

log = logging.getLogger(__name__)

BODY_TIMEOUT_S = 10.0
_REQUESTS = ("http", "websocket")
"""What a client can open; a WebSocket is held to all that any request is, by its handshake."""
OPEN_PATHS = frozenset({"/v1/sandbox/health", "/docs", "/openapi.json", "/asyncapi.json"})
"""What anyone may read: it tells nothing about anyone's calls."""


def stack(
    authenticator: Authenticator, names: HostNames, signer: Signer, ports: Ports
) -> list[Middleware]:
    """The layers, outermost first."""
    return [
        Middleware(NoTracebacks),
        Middleware(PortDoor, authenticator, names, signer, ports),
        Middleware(KnownHosts, names),
        Middleware(KnownOrigins, names),
        Middleware(Authentication, authenticator, signer),
        Middleware(BoundedBody),
    ]


class NoTracebacks:
    """A fault of ours is a 500 without its particulars; those are logged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            log.exception("a fault in the daemon")
            if started:
                raise
            fault = problem(500, ErrorCode.INTERNAL, "a fault in the daemon; its log tells more")
            await fault(scope, receive, send)


async def _tell(refusal: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """An answer to a request whose body was not read; where some is still to come, it would
    be lost to a reset."""
    await (Paced(refusal) if scope["type"] == "http" else refusal)(scope, receive, send)


class KnownHosts:
    """The Host header must name this daemon, against DNS rebinding."""

    def __init__(self, app: ASGIApp, names: HostNames) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in _REQUESTS:
            hosts = Headers(scope=scope).getlist("host")
            server = scope.get("server") or ("", 0)
            if len(hosts) != 1 or not self._names.accepts(hosts[0], server[0]):
                refusal = problem(
                    403,
                    ErrorCode.POLICY_DENIED,
                    "the Host header does not name this daemon; allow the name with -allowed-host",
                )
                await _tell(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)


class KnownOrigins:
    """A browser's page may call only the daemon that served it."""

    def __init__(self, app: ASGIApp, names: HostNames) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in _REQUESTS:
            headers = Headers(scope=scope)
            origins = headers.getlist("origin")
            if any(not self._names.same_origin(origin, headers["host"]) for origin in origins):
                refusal = problem(
                    403,
                    ErrorCode.POLICY_DENIED,
                    "pages of another origin may not call this daemon",
                )
                await _tell(refusal, scope, receive, send)
                return
        await self._app(scope, receive, send)


class Authentication:
    """Puts the caller into the request's state, or answers 401 (RFC 6750)."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, signer: Signer) -> None:
        self._app = app
        self._authenticator = authenticator
        self._signer = signer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in _REQUESTS and scope["path"] not in OPEN_PATHS:
            caller = self._caller(scope)
            if caller is None:
                refusal = problem(
                    401,
                    ErrorCode.POLICY_DENIED,
                    "this daemon asks for a token: send `Authorization: Bearer TOKEN`",
                    {"www-authenticate": 'Bearer realm="mas-sandbox"'},
                )
                await _tell(refusal, scope, receive, send)
                return
            scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)

    def _caller(self, scope: Scope) -> Caller | None:
        """By the token; where there is none, by the signature in the URL."""
        given = Headers(scope=scope).getlist("authorization")
        if len(given) > 1:
            return None
        query = scope["query_string"].decode("latin-1")
        if not given and scope["type"] == "http" and "signature=" in query:
            return self._signer.caller(scope["method"], scope["path"], query)
        return self._authenticator.authenticate(given[0] if given else None)


class _Refuse(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class BoundedBody:
    """Reads the whole body before the route sees it: so much, in so long, and JSON only;
    but for uploads, which the route reads as they come."""

    def __init__(self, app: ASGIApp, timeout_s: float = BODY_TIMEOUT_S) -> None:
        self._app = app
        self._paced = Paced(app)
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if is_streamed(scope):
            await self._paced(scope, receive, send)
            return
        try:
            headers = Headers(scope=scope)
            _check_headers(scope["method"], headers)
            async with asyncio.timeout(self._timeout_s):
                body = await _read(receive)
        except TimeoutError:
            message = f"the body did not arrive within {self._timeout_s:g} s"
            await _refused(408, message)(scope, receive, send)
            return
        except _Refuse as refusal:
            await _refused(refusal.status, str(refusal))(scope, receive, send)
            return
        if body is None:
            return  # the client is gone, and nothing was begun for it
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, send)


def _check_headers(method: str, headers: Mapping[str, str]) -> None:
    length = headers.get("content-length", "0")
    if int(length) > MAX_BYTES:  # the HTTP parser has refused anything but digits
        raise _Refuse(413, f"the body has {length} bytes; {MAX_BYTES} at most")
    if method == "POST":
        kind = headers.get("content-type", "").split(";", 1)[0].strip().lower()
        if kind != "application/json":
            raise _Refuse(415, "send the body as content-type application/json")


async def _read(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if len(body) > MAX_BYTES:
            raise _Refuse(413, f"the body has over {MAX_BYTES} bytes")
        if not message.get("more_body", False):
            return bytes(body)


def _refused(status: int, message: str) -> ASGIApp:
    return Paced(problem(status, ErrorCode.INVALID_REQUEST, message))
