"""Every route, by FastAPI. Importing this takes a while."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from mas_sandbox import __version__
from mas_sandbox.wire.errors import ErrorCode

from ..live.code import Codes
from ..live.files import Files
from ..live.processes import Processes
from . import code, files, processes, routes, sandboxes, sockets, tunnels
from . import ports as port_routes
from .at_once import FORESEEN, AtOnce
from .openapi import Described
from .page import page
from .problems import JsonReply, problem, refusal
from .stack import NoTracebacks
from .strict import explain

_ROUTERS = (
    *(routes.router, routes.guarded, sandboxes.router, code.sockets),
    *(room.router for room in (processes, files, code, sockets, port_routes, tunnels)),
)
"""In the order in which they are asked: a path with a name in it may be another's prefix."""


def build_routes(state: State) -> ASGIApp:
    """`state`: what the whole daemon shares; what only these routes need is added."""
    from . import ports_exchange  # noqa: F401  # the door to ports will need it

    state.processes = Processes(state.broker)
    state.files = Files(state.broker)
    state.codes = Codes(state.broker)
    app = build_api()
    app.state = state
    return AtOnce(app, (processes.start_at_once,), refusal)


def build_api() -> FastAPI:
    """The application of the routes, which are the same in every daemon."""
    app = Described(
        title="mas-sandbox",
        version=__version__,
        summary="Runs agents' tool calls behind walls.",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=[Middleware(NoTracebacks)],  # else FastAPI would answer a fault of ours
        exception_handlers=dict.fromkeys((*FORESEEN, RequestValidationError), _refused),
    )
    for router in _ROUTERS:
        # Not `include_router`, which would analyse each of them once more.
        app.router.routes.extend(router.routes)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The API in a page of its own, which loads nothing from anywhere."""
        return HTMLResponse(
            page(app.openapi()),
            headers={"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"},
        )

    @app.get("/asyncapi.json", include_in_schema=False)
    async def asyncapi(request: Request) -> Response:
        """WebSockets and event streams, of which OpenAPI knows nothing."""
        from .asyncapi import described  # its schemas are made when they are first asked for

        return JsonReply(described(request.headers["host"]))

    return app


async def _refused(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestValidationError):
        return problem(400, ErrorCode.INVALID_REQUEST, explain(error.errors()))
    return refusal(error)
