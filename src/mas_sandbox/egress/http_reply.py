"""What a client of HTTP is told when its connection is refused."""

from __future__ import annotations

from .refusal import Refused

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


def refusal_reply(refused: Refused) -> bytes:
    """A whole answer, after which the connection ends."""
    from http import HTTPStatus

    status = refused.outcome.status
    body = f"mas-sandbox: {refused.reason}\n".encode("ascii", "replace")
    head = (
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Connection: close\r\n"
        f"X-Mas-Sandbox-Rule: {refused.rule}\r\n\r\n"
    )
    return head.encode("ascii", "replace") + body
