"""Requests for the servers inside a sandbox."""

from __future__ import annotations

from mas_sandbox.api.ports import PortList, SharedPort

from . import Asked, sandbox_path


def listed(sandbox_id: str) -> Asked[PortList]:
    return Asked("GET", sandbox_path(sandbox_id, "ports"), PortList)


def shared(sandbox_id: str, port: int, expires_s: int) -> Asked[SharedPort]:
    body = {"expires_s": expires_s}
    return Asked("POST", sandbox_path(sandbox_id, f"ports/{port:d}/share"), SharedPort, body)


def tunnel_path(sandbox_id: str, port: int) -> str:
    return sandbox_path(sandbox_id, f"tunnels/{port:d}")


def whole(url: str, daemon: str) -> str:
    """A URL that may be without scheme and host, as anyone can use it.

    >>> whole("/v1/sandboxes/sb_1/ports/80/?token=t", "http://127.0.0.1:8080")
    'http://127.0.0.1:8080/v1/sandboxes/sb_1/ports/80/?token=t'
    """
    return f"{daemon}{url}" if url.startswith("/") and not url.startswith("//") else url
