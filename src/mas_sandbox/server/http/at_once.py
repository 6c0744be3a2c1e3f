"""Routes that are answered without FastAPI's machinery: how it finds a route and its
arguments would take longer than all else between a request and its work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from .strict import StrictRequest


class AtOnce(Route):
    """POST to `path` without a query. What has one goes to the route of the same path that
    FastAPI keeps, which is also the one that the OpenAPI page shows.

    `answer` may raise what a FastAPI route may.
    """

    def __init__(self, path: str, answer: Callable[[StrictRequest], Awaitable[Response]]) -> None:
        async def strictly(request: Request) -> Response:
            return await answer(StrictRequest(request.scope, request.receive))

        super().__init__(path, strictly, methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.NONE, {}) if scope.get("query_string") else super().matches(scope)
