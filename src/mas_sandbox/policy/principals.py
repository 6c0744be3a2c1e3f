"""Who calls: tokens, stored as hashes, bound to policies."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from .model import Policy


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller's identity and the operator's policy for it."""

    name: str
    policy: Policy


def hash_token(token: str) -> str:
    """What is stored of a token: SHA-256, hex.

    Tokens are random and long, so that a fast hash is enough; a password would need
    a slow one.
    """
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class Principals:
    """Everyone who may call."""

    def __init__(self, entries: Iterable[tuple[str, Principal]] = ()) -> None:
        """`entries`: (hash of a token, whom it identifies)."""
        self._entries = tuple(entries)

    def __len__(self) -> int:
        return len({principal.name for _, principal in self._entries})

    def authenticate(self, token: str) -> Principal | None:
        """Whom a token identifies. Takes the same time whether and where it matches."""
        digest = hash_token(token)
        found = None
        for stored, principal in self._entries:
            if hmac.compare_digest(stored, digest):
                found = principal
        return found
