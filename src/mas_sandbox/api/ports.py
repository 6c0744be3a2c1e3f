"""The bodies of `/v1/sandboxes/{id}/ports`: servers inside a sandbox."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PortNumber = Annotated[int, Field(ge=1, le=65535)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ListeningPort(_Body):
    """A port that something listens on. `pid`: null where the sandbox does not tell."""

    port: PortNumber
    address: str
    pid: int | None = None


class PortList(_Body):
    """`GET /v1/sandboxes/{id}/ports`, by number."""

    ports: tuple[ListeningPort, ...]


class SharePort(_Body):
    """`POST .../ports/{port}/share`."""

    expires_s: int = Field(default=3600, ge=1, le=604_800)


class SharedPort(_Body):
    """A token for one port and nothing else. `path`: where the server is below the daemon's
    address; `host`: the name it has of its own, with the daemon's port, where the daemon was
    given a domain; `url`: what a browser opens, with the token: whole where there is a `host`,
    else without scheme and host, as `path`; `expires`: Unix time, after which the token is
    nobody's. It ends with the sandbox and with the daemon as well."""

    port: PortNumber
    token: str
    path: str
    host: str | None
    url: str
    expires: int
