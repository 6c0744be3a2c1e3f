"""Which port a request is for, on whose behalf it comes, and what of it is ours alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto

from starlette.datastructures import Headers
from starlette.types import Scope

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..auth import Authenticator
from ..calls import Caller
from ..listen import MAX_PORT, HostNames
from ..live.signing import Signer

TOKEN_HEADER = "x-mas-port-token"  # noqa: S105 # a name, no secret
TOKEN = "mas_port_token"  # noqa: S105
"""The name of the query's parameter and of the cookie."""
_MAX_COOKIES = 8
"""Tokens that are tried: a page may have set some of its own by that name."""
_PATH = re.compile(rb"(/v1/sandboxes/([A-Za-z0-9_-]{1,64})/ports/([1-9][0-9]{0,4}))(/.*)?")


@dataclass(frozen=True, slots=True)
class Target:
    """`prefix`: what is before the server's own paths: empty for a host name of its own;
    `path`: what the server is asked for, as it was written, empty where even the slash is
    missing."""

    sandbox_id: str
    port: int
    prefix: bytes
    path: bytes


def target_of(scope: Scope, names: HostNames) -> Target | None:
    """The port that a request is for, None for one to the daemon itself. Judged by the path as
    it was written, like a browser does that sends a cookie to a part of the paths alone."""
    path: bytes = scope["raw_path"]
    named = names.port_of(Headers(scope=scope).get("host", ""))
    if named is not None:
        return Target(*named, b"", path)
    found = _PATH.fullmatch(path)
    if found is None or int(found[3]) > MAX_PORT:
        return None
    if found[4] == b"/share" and scope.get("method") == "POST":
        return None  # the daemon's own
    return Target(found[2].decode(), int(found[3]), found[1], found[4] or b"")


class By(Enum):
    """What a request showed of who it is."""

    HEADER = auto()
    QUERY = auto()
    BEARER = auto()
    COOKIE = auto()
    NOTHING = auto()
    """The daemon asks for no token."""


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that may be passed on. `query`: without our token; `authorization`: whether
    that header is meant for the server; `cookies`: whether cookies are."""

    target: Target
    caller: Caller
    by: By
    token: str
    scheme: str
    host: str
    query: bytes
    authorization: bool
    cookies: bool


class Refusal(SandboxError):
    """`status`: 401 or 403."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(ErrorCode.POLICY_DENIED, message)
        self.status = status


class Entrance:
    """Lets requests to ports in. Raises Refusal."""

    def __init__(self, authenticator: Authenticator, names: HostNames, signer: Signer) -> None:
        self._authenticator = authenticator
        self._names = names
        self._signer = signer

    def admit(self, scope: Scope, target: Target) -> Visit:
        headers = Headers(scope=scope)
        self._check_host(scope, headers, target)
        tokens, query = _split_query(scope["query_string"])
        # Whoever else it may be for, a token of the daemon's is never passed on.
        given = headers.getlist("authorization")
        required = self._authenticator.required
        ours = [each for each in map(self._authenticator.authenticate, given) if each and required]
        caller, by, token = self._who(headers, target, tokens, ours)
        if by not in (By.HEADER, By.QUERY):
            self._check_origin(headers, by)
        return Visit(
            target=target,
            caller=caller,
            by=by,
            token=token,
            scheme=scheme_of(scope),
            host=headers["host"],
            query=query,
            authorization=not ours,
            cookies=not target.prefix or _is_program(headers, by),
        )

    def _check_host(self, scope: Scope, headers: Headers, target: Target) -> None:
        hosts = headers.getlist("host")
        local = (scope.get("server") or ("", 0))[0]
        if len(hosts) != 1 or (target.prefix and not self._names.accepts(hosts[0], local)):
            raise Refusal(
                403,
                "the Host header does not name this daemon; allow the name with -allowed-host",
            )

    def _who(
        self, headers: Headers, target: Target, in_query: list[str], ours: list[Caller]
    ) -> tuple[Caller, By, str]:
        for by, given in ((By.HEADER, headers.getlist(TOKEN_HEADER)), (By.QUERY, in_query)):
            if given:
                caller = self._holder(given[0], target) if len(given) == 1 else None
                if caller is None:
                    raise Refusal(
                        401,
                        "this token is not for this port, or it is over; share the port again",
                    )
                return caller, by, given[0]
        if ours:
            return ours[0], By.BEARER, ""
        for token in _cookies(headers)[:_MAX_COOKIES]:
            if caller := self._holder(token, target):
                return caller, By.COOKIE, token
        if not self._authenticator.required:
            return self._authenticator.local, By.NOTHING, ""
        raise Refusal(
            401,
            "this port asks for a token: send `Authorization: Bearer TOKEN` with the daemon's, "
            f"or `{TOKEN_HEADER}: TOKEN` with one that the port was shared with",
        )

    def _holder(self, token: str, target: Target) -> Caller | None:
        return self._signer.holder(token, target.sandbox_id, target.port)

    def _check_origin(self, headers: Headers, by: By) -> None:
        """What a browser adds by itself may be used by the server's own pages alone."""
        if any(not self._names.same_origin(o, headers["host"]) for o in headers.getlist("origin")):
            raise Refusal(403, "pages of another origin may not call this port without its token")
        if (
            by is By.COOKIE
            and headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
            and headers.get("sec-fetch-mode") != "navigate"
        ):
            raise Refusal(403, "pages of another origin may not load this without its token")


def scheme_of(scope: Scope) -> str:
    """What the client speaks. TLS may end before us; a client that lies about it is itself the
    only one to be deceived."""
    told = Headers(scope=scope).get("x-forwarded-proto", "").lower()
    return "https" if told == "https" or scope["scheme"] in ("https", "wss") else "http"


def _is_program(headers: Headers, by: By) -> bool:
    """Not a browser's page, whose cookies may be any other server's on this host: cookies know
    of no ports (RFC 6265 section 8.5), and browsers say what they fetch for on loopback."""
    match by:
        case By.HEADER | By.BEARER:
            return True
        case By.NOTHING:
            return "sec-fetch-mode" not in headers
        case By.QUERY | By.COOKIE:
            return False


def _split_query(query: bytes) -> tuple[list[str], bytes]:
    """Our tokens, and what is not ours, byte for byte."""
    tokens, rest = [], []
    for part in query.split(b"&") if query else []:
        name, _, value = part.partition(b"=")
        if name.decode("latin-1") == TOKEN:
            tokens.append(value.decode("latin-1"))
        else:
            rest.append(part)
    return tokens, b"&".join(rest)


def _cookies(headers: Headers) -> list[str]:
    """The tokens among the cookies."""
    pairs = [each.strip() for line in headers.getlist("cookie") for each in line.split(";")]
    return [pair.partition("=")[2] for pair in pairs if pair.partition("=")[0] == TOKEN]
