"""The HTTP application: layers, routes, and how errors are worded."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from mas_sandbox import __version__
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..auth import Authenticator
from ..broker import Broker
from ..listen import HostNames
from ..live.code import Codes
from ..live.files import Files
from ..live.ports import Ports
from ..live.processes import Processes
from ..live.signing import Signer
from . import code, files, processes, sockets, tunnels
from . import ports as port_routes
from .at_once import FORESEEN, AtOnce
from .page import page
from .problems import JsonReply, problem, problem_of
from .routes import execute_at_once, guarded, router
from .sandboxes import router as sandboxes
from .stack import stack
from .strict import explain


def build_app(broker: Broker, authenticator: Authenticator, names: HostNames) -> FastAPI:
    """The ASGI application of one daemon."""
    signer, ports = Signer(), Ports(broker)
    app = FastAPI(
        title="mas-sandbox",
        version=__version__,
        summary="Runs agents' tool calls behind walls.",
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=[
            *stack(authenticator, names, signer, ports),
            Middleware(AtOnce, (execute_at_once, processes.start_at_once), _refusal),
        ],
        exception_handlers=dict.fromkeys(FORESEEN, _refused),
    )
    app.state.broker = broker
    app.state.processes = Processes(broker)
    app.state.files = Files(broker)
    app.state.codes = Codes(broker)
    app.state.ports = ports
    app.state.names = names
    app.state.signer = signer
    app.state.open_streams = set()
    app.include_router(router)
    app.include_router(guarded)
    app.include_router(sandboxes)
    app.include_router(code.sockets)
    for room in (processes, files, code, sockets, port_routes, tunnels):
        app.include_router(room.router)

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
    return _refusal(error)


def _refusal(error: Exception) -> Response:
    if isinstance(error, SandboxError):
        return problem_of(error)
    if isinstance(error, RequestValidationError):
        return problem(400, ErrorCode.INVALID_REQUEST, explain(error))
    assert isinstance(error, HTTPException)
    code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.INVALID_REQUEST
    match error.status_code:
        case 404:
            message = "there is nothing here; GET /docs lists the endpoints"
        case 405:
            message = "this endpoint takes another method; GET /docs lists them"
        case _:
            message = error.detail
    return problem(error.status_code, code, message, dict(error.headers or {}))
