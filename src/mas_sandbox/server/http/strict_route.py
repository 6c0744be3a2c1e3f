"""FastAPI's routes, strict."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from . import keys
from .strict import StrictRequest


class StrictRoute(APIRoute):
    """A FastAPI route whose request parses strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_key = self.openapi_extra is keys.TAKES_KEY

        async def strictly(request: Request) -> Response:
            if not takes_key:
                keys.refuse(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly
