"""A call that is answered without running, or that ended before its tool did."""

from __future__ import annotations

from mas_sandbox.wire.errors import ErrorCode


class Refused(Exception):
    """`code` is one of `messages.GUEST_CODES`; `message` says what to do next."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
