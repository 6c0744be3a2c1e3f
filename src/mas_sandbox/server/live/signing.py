"""What lets whoever holds it do one thing, for a while: a URL of one file, a token of one port."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode

if TYPE_CHECKING:
    from ..calls import Caller

METHODS = ("GET", "PUT")
_FIELDS = ["expires", "path", "signature"]
_ROUTE = "/v1/sandboxes/{}/files"
_PORT = "port"
"""In the place of a method, which is upper case: no URL's signature is a port's."""


class Signer:
    """One per daemon: its key is random, so a URL ends with the daemon that signed it. Callers
    are remembered under a name that tells a URL's holder nothing."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._callers: dict[str, Caller] = {}

    def sign(
        self, caller: Caller, method: str, sandbox_id: str, path: str, expires_s: int
    ) -> tuple[str, int]:
        """The URL, without scheme and host, and when it ends as Unix time."""
        who = self._remembered(caller)
        expires = int(time.time()) + expires_s
        route = _ROUTE.format(quote(sandbox_id, safe=""))
        signature = f"{self._digest(who, method, route, path, expires)}.{who}"
        query = urlencode({"path": path, "expires": expires, "signature": signature})
        return f"{route}?{query}", expires

    def caller(self, method: str, route: str, query: str) -> Caller | None:
        """On whose behalf a request acts, which must be exactly what was signed; None for
        a signature that is not ours or is over."""
        try:
            fields = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
        except ValueError:
            return None
        if sorted(name for name, _ in fields) != _FIELDS:
            return None
        given = dict(fields)
        digest, _, who = given["signature"].partition(".")
        return self._signed(digest, who, method, route, given["path"], given["expires"])

    def share(self, caller: Caller, sandbox_id: str, port: int, expires_s: int) -> tuple[str, int]:
        """A token for one port of one sandbox, of digits, letters and points, and when it ends
        as Unix time."""
        who = self._remembered(caller)
        expires = int(time.time()) + expires_s
        return (
            f"{expires}.{who}.{self._digest(who, _PORT, sandbox_id, str(port), expires)}",
            expires,
        )

    def holder(self, token: str, sandbox_id: str, port: int) -> Caller | None:
        """On whose behalf the holder of a token for this port acts; None for one that is not
        ours, or not for this port, or over."""
        expires, _, rest = token.partition(".")
        who, _, digest = rest.partition(".")
        return self._signed(digest, who, _PORT, sandbox_id, str(port), expires)

    def _remembered(self, caller: Caller) -> str:
        who = hmac.digest(self._key, caller.name.encode(), "sha256").hex()[:16]
        self._callers[who] = caller
        return who

    def _signed(
        self, digest: str, who: str, method: str, route: str, path: str, expires: str
    ) -> Caller | None:
        caller = self._callers.get(who)
        if caller is None or not (expires.isascii() and expires.isdigit() and len(expires) < 12):
            return None
        wanted = self._digest(who, method, route, path, expires)
        if not hmac.compare_digest(wanted.encode(), digest.encode()):
            return None
        return caller if time.time() < int(expires) else None

    def _digest(self, who: str, method: str, route: str, path: str, expires: int | str) -> str:
        """As text `expires` is held to the spelling that was signed."""
        said = "\0".join((who, method, route, str(expires), path))
        return hmac.digest(self._key, said.encode(), "sha256").hex()
