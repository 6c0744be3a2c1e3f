"""Requests that are answered without FastAPI's machinery: how it finds a route and its
arguments would take longer than all else between a request and its work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from mas_sandbox.wire.errors import SandboxError

from .strict import StrictRequest

FORESEEN = (SandboxError, HTTPException)
"""What a route raises so that it is answered in its words."""


class Shortcut:
    """A request to `path` without a query. What has one goes to the route of the same path
    that FastAPI keeps, which is also the one that the OpenAPI page shows.

    `answer` may raise what is `FORESEEN`.
    """

    def __init__(
        self,
        path: str,
        answer: Callable[[StrictRequest], Awaitable[Response]],
        method: str = "POST",
    ) -> None:
        self.path = compile_path(path)[0]
        self.method = method
        self.answer = answer


class AtOnce:
    """Takes the shortcuts, and hands everything else on. `refused`: what is answered to what
    they raise."""

    def __init__(
        self,
        app: ASGIApp,
        shortcuts: Sequence[Shortcut],
        refused: Callable[[Exception], Response],
    ) -> None:
        self._app = app
        self._shortcuts = shortcuts
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["query_string"]:
            for shortcut in self._shortcuts:
                if scope["method"] == shortcut.method and (
                    match := shortcut.path.match(scope["path"])
                ):
                    scope["path_params"] = match.groupdict()
                    response = await self._answered(shortcut, StrictRequest(scope, receive))
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)

    async def _answered(self, shortcut: Shortcut, request: StrictRequest) -> Response:
        try:
            return await shortcut.answer(request)
        except FORESEEN as error:
            return self._refused(error)
