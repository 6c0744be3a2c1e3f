"""The HTTP application: its layers, what is answered at once, and behind that the routes.

FastAPI, and the routes with their models, take longer to come up than all else of the daemon.
So they are no part of its start: it answers calls, and says how it is, while they are built.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.datastructures import State
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..auth import Authenticator
from ..broker import Broker
from ..listen import HostNames
from ..live.ports import Ports
from ..live.signing import Signer
from .at_once import AtOnce
from .execute import execute_at_once, health_at_once
from .late import Late
from .problems import refusal
from .stack import stack


class Door:
    """The ASGI application of one daemon. `state`: what its routes share; `routes`: the
    application that has all of them."""

    def __init__(self, state: State, layers: Sequence[Middleware], routes: Late) -> None:
        self.state = state
        self.layers = layers
        self.routes = routes
        self._app: ASGIApp = routes
        for layer in reversed(layers):
            self._app = layer.cls(self._app, *layer.args, **layer.kwargs)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self
        await self._app(scope, receive, send)


def build_app(broker: Broker, authenticator: Authenticator, names: HostNames) -> Door:
    """The application of one daemon. Its routes are built when `routes.built` is awaited, or
    by the first request to one."""
    signer, ports = Signer(), Ports(broker)
    state = State({"broker": broker, "ports": ports, "names": names, "signer": signer})
    state.open_streams = set()
    layers = [
        *stack(authenticator, names, signer, ports),
        Middleware(AtOnce, (execute_at_once, health_at_once), refusal),
    ]

    def routes() -> ASGIApp:
        from .all_routes import build_routes

        return build_routes(state)

    return Door(state, layers, Late(routes))
