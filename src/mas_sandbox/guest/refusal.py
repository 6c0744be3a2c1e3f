"""What the toolrunner will not do: run a call, or serve at all."""

from __future__ import annotations

from mas_sandbox.wire.errors import ErrorCode


class Refused(Exception):
    """A call that is answered without running, or that ended before its tool did.

    `code` is one of `messages.GUEST_CODES`; `message` says what to do next."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Unenforceable(Exception):
    """The WELCOME asks for what this machine cannot hold. Worded for the console."""
