"""The header `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a string in quotes,
as RFC 9651 has it, or the same characters bare."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from ..once import Keyed

NAME = "idempotency-key"
REPLAYED = "idempotency-replayed"
_BARE = re.compile(r"[!#-+\--:<-\[\]-~]+")
"""No quote, comma, semicolon or backslash: those are of lists, of parameters, of quoted text."""
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')

TAKES_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "description": "do this once, and answer it as often as it is sent for a day: "
            "1 to 255 printable ASCII characters, in quotes or bare",
            "schema": {"type": "string", "examples": ['"8e03978e-40d5-43dd-bc93-6894a57f9324"']},
        }
    ]
}
"""`openapi_extra` of a route that takes it. Every other POST refuses it: whoever sends it relies
on it."""


async def keyed(request: Request, route: str) -> Keyed:
    """What a request with that header is. Raises SandboxError `invalid_request` for a key that
    is none."""
    from ..once import Keyed  # most requests come without

    key = _parsed(request.headers.getlist(NAME))
    return Keyed.of(key, route, await request.json())


def refuse(request: Request) -> None:
    """Raises SandboxError `invalid_request` for a POST with a key, where none is taken."""
    if request.method == "POST" and NAME in request.headers:
        raise SandboxError(
            ErrorCode.INVALID_REQUEST,
            "Idempotency-Key: this endpoint takes none; leave it out, and look before you send "
            "the request again",
        )


def _parsed(given: list[str]) -> str:
    value = given[0].strip(" \t")
    if len(given) == 1 and (quoted := _QUOTED.fullmatch(value)):
        return re.sub(r"\\(.)", r"\1", quoted[1])
    if len(given) == 1 and _BARE.fullmatch(value):
        return value
    raise SandboxError(
        ErrorCode.INVALID_REQUEST,
        'Idempotency-Key: send one, in quotes ("8e03978e-40d5") or bare, without parameters',
    )
