"""The endpoints of a sandbox's ports that are the daemon's own: what listens, and tokens."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from mas_sandbox.api.ports import PortList, PortNumber, SharedPort, SharePort

from ..listen import HostNames
from ..live.ports import Ports, refuse_way_out
from ..live.signing import Signer
from .ports_visit import TOKEN, scheme_of
from .routes import PROBLEMS, TheBroker, TheCaller, bearer
from .strict_route import StrictRoute

router = APIRouter(
    prefix="/v1/sandboxes/{sandbox_id}/ports",
    route_class=StrictRoute,
    dependencies=[Depends(bearer)],
    responses=PROBLEMS,
    tags=["ports"],
)
ThePort = Annotated[PortNumber, Path()]


@router.get("")
async def list_ports(sandbox_id: str, request: Request, caller: TheCaller) -> PortList:
    """What listens for TCP connections inside. `.../ports/{port}/...`, with any method or as a
    WebSocket, is passed on to the server that listens there."""
    ports: Ports = request.app.state.ports
    return PortList(ports=await ports.list(caller, sandbox_id))


@router.post("/{port}/share")
async def share(
    sandbox_id: str,
    port: ThePort,
    body: SharePort,
    request: Request,
    broker: TheBroker,
    caller: TheCaller,
) -> SharedPort:
    """A token with which anyone reaches this port and nothing else, until it expires. Each
    connection is decided by policy as its maker's. Nothing need listen there yet."""
    signer: Signer = request.app.state.signer
    names: HostNames = request.app.state.names
    refuse_way_out(port)
    named = broker.sandboxes.find(caller.name, sandbox_id)
    token, expires = signer.share(caller, named.id, port, body.expires_s)
    path = f"/v1/sandboxes/{named.id}/ports/{port}/"
    host = names.name_of(named.id, port, request.headers["host"])
    place = path if host is None else f"{scheme_of(request.scope)}://{host}/"
    return SharedPort(
        port=port,
        token=token,
        path=path,
        host=host,
        url=f"{place}?{TOKEN}={token}",
        expires=expires,
    )
