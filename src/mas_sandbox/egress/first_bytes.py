"""What a tunnel's client begins with, by as few bytes as tell."""

from __future__ import annotations

import re
from enum import Enum

from .client import Client, promptly
from .refusal import Outcome, Refused
from .tls import HANDSHAKE


class Begins(Enum):
    TLS = "TLS"
    HTTP = "HTTP"
    OPAQUE = "something else"


HTTP_PORT, HTTPS_PORT = 80, 443
_MAX_REQUEST_LINE = 16 * 1024
_METHOD = re.compile(rb"[-!#$%&'*+.^_`|~0-9A-Za-z]*")
"""Any token (RFC 9110 section 5.6.2), however long: some servers take any for a method."""
_BLANK = b" \t\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0"
"""What some server or other takes for the white space of a request's line."""
_WORD = re.compile(rb"[^%b]+" % re.escape(_BLANK))


async def begins(client: Client, port: int) -> Begins | None:
    """Read on until it is clear; None where the client ends before it says anything.

    It may take its time to begin, as it does where the server speaks first, but not then.
    Raises Refused, also where `port` is for something else.
    """
    if not client.ahead and not await client.more():
        return None
    async with promptly():
        while (found := classify(client.ahead)) is None and await client.more():
            continue
    found = found or Begins.OPAQUE
    wanted = {HTTPS_PORT: Begins.TLS, HTTP_PORT: Begins.HTTP}.get(port, found)
    if found is not wanted:
        raise Refused(
            Outcome.DENIED,
            "tunnel",
            f"port {port} is for {wanted.value}, and the connection begins with {found.value}",
        )
    return found


def classify(data: bytes) -> Begins | None:
    """None while more bytes are needed to tell."""
    # A line without end is left to the parser of HTTP, which refuses it.
    undecided = Begins.HTTP if len(data) > _MAX_REQUEST_LINE else None
    if data[:1] == bytes([HANDSHAKE]):
        return undecided if len(data) == 1 else Begins.TLS if data[1] == 3 else Begins.OPAQUE
    request = data.lstrip(_BLANK + b"\n")  # as servers do
    method = _METHOD.match(request)
    length = method.end() if method is not None else 0
    if length == len(request):
        return undecided
    line, newline, _ = request.partition(b"\n")
    if length == 0 or request[length] not in _BLANK + b"\n":
        return Begins.OPAQUE
    if b"\0" in line and not line[:length].isalpha():
        return Begins.OPAQUE  # as git begins, which ends no line
    if not newline:
        return undecided
    return Begins.HTTP if _WORD.findall(line)[-1].startswith(b"HTTP/") else Begins.OPAQUE
