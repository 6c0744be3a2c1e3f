"""Why a connection is not made, and how each protocol's client is told."""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """The kind of a refusal: HTTP status (RFC 9110), SOCKS5 reply (RFC 1928 section 6)."""

    MALFORMED = (400, 0x01)
    AUTHENTICATION = (407, 0xFF)
    TOO_SLOW = (408, 0x01)
    TOO_LARGE = (431, 0x01)
    DENIED = (403, 0x02)
    TOO_MANY = (429, 0x02)
    UNREACHABLE = (502, 0x04)
    REFUSED_THERE = (502, 0x05)
    NO_ANSWER = (504, 0x06)
    COMMAND = (501, 0x07)
    ADDRESS_TYPE = (501, 0x08)

    def __init__(self, status: int, socks: int) -> None:
        self.status = status
        self.socks = socks


class Refused(Exception):
    """`rule`: what decided, printable ASCII; `reason`: a sentence that says what to do."""

    def __init__(self, outcome: Outcome, rule: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome
        self.rule = rule
        self.reason = reason
