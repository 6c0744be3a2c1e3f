"""The door to servers inside sandboxes: below a path of the daemon's, or by a host name of
their own. It is before every other: what comes in here never reaches the API.

What speaks to those servers is imported for the first who comes for one (`all_routes` does it
before, as a rule): parsers of their own are no part of the daemon's start.
"""

from __future__ import annotations

import time

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mas_sandbox.wire.errors import ErrorCode

from ..auth import Authenticator
from ..listen import HostNames
from ..live.ports import Ports
from ..live.signing import Signer
from .ports_headers import port_cookie
from .ports_visit import By, Entrance, Refusal, Visit, target_of
from .problems import problem
from .uploads import Paced


class PortDoor:
    """Serves what is for a port, and passes on what is not."""

    def __init__(
        self,
        app: ASGIApp,
        authenticator: Authenticator,
        names: HostNames,
        signer: Signer,
        ports: Ports,
    ) -> None:
        self._app = app
        self._names = names
        self._entrance = Entrance(authenticator, names, signer)
        self._ports = ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        target = None
        if scope["type"] in ("http", "websocket"):
            target = target_of(scope, self._names)
        if target is None:
            await self._app(scope, receive, send)
            return
        try:
            visit = self._entrance.admit(scope, target)
        except Refusal as refusal:
            headers = {"connection": "close"}
            if refusal.status == 401:
                headers["www-authenticate"] = 'Bearer realm="mas-sandbox"'
            answer = problem(refusal.status, refusal.code, refusal.message, headers)
            await (Paced(answer) if scope["type"] == "http" else answer)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            from .ports_socket import converse

            await converse(self._ports, visit, scope, receive, send)
        elif (elsewhere := _elsewhere(visit, scope)) is not None:
            await Paced(elsewhere)(scope, receive, send)
        else:
            from .ports_exchange import exchange

            async def passed_on(scope: Scope, receive: Receive, send: Send) -> None:
                await exchange(self._ports, visit, scope, receive, send)

            await Paced(passed_on)(scope, receive, send)


def _elsewhere(visit: Visit, scope: Scope) -> Response | None:
    """An answer of our own: to what no server is asked, and where the request is to be sent
    first to become one that it is."""
    method, headers = scope["method"], dict(scope["headers"])
    if method in ("CONNECT", "TRACE"):
        return problem(
            405, ErrorCode.INVALID_REQUEST, f"{method} is not passed on; open a tunnel for that"
        )
    if (
        visit.by is By.QUERY
        and method == "GET"
        and b"text/html" in headers.get(b"accept", b"").lower()
    ):
        # A token in a page's address would be seen, kept and told to others.
        seconds = max(0, int(visit.token.partition(".")[0]) - int(time.time()))
        moved = _moved(303, visit)
        moved.headers["set-cookie"] = port_cookie(visit, seconds).decode("latin-1")
        moved.headers["referrer-policy"] = "no-referrer"
        return moved
    return None if visit.target.path else _moved(307, visit)


def _moved(status: int, visit: Visit) -> Response:
    """To the same without our token, at the root if it was nowhere."""
    # Two slashes, or a backslash, would begin another host's name.
    path = visit.target.prefix + b"/" + visit.target.path.lstrip(b"/\\")
    query = b"?" + visit.query if visit.query else b""
    return Response(status_code=status, headers={"location": (path + query).decode("latin-1")})
