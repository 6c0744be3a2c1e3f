"""The headers of a request to a server inside, and of its answer, as they are passed on.

Both are written anew: what concerns one connection only is left out (RFC 9110 section 7.6.1),
and so is what would reach beyond the server's own place on the other side.
"""

from __future__ import annotations

from collections.abc import Iterable

from .ports_visit import TOKEN, TOKEN_HEADER, Visit

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
        b"transfer-encoding",
    }
)
_KEPT = frozenset({b"content-length", b"host", b"content-type", b"cookie", b"authorization"})
"""What `Connection` may not name away."""
# Ours to say, or of no concern to a server that nobody trusts: who the client is.
_NOT_PASSED_ON = frozenset(
    {
        *(b"host", b"expect", b"origin", b"cookie", b"authorization", b"referer"),
        *(b"forwarded", b"x-real-ip", b"via", TOKEN_HEADER.encode()),
    }
)
# What a browser keeps for all that has the origin's, or the site's, name.
_OF_THE_WHOLE_SITE = frozenset(
    {
        *(b"clear-site-data", b"strict-transport-security", b"public-key-pins", b"alt-svc"),
        *(b"nel", b"report-to", b"reporting-endpoints", b"expect-ct", b"set-login"),
    }
)
# The front door's own: they are on every answer.
_FRONT_DOORS = frozenset({b"date", b"cache-control", b"expires", b"x-content-type-options"})
_SANDBOX = (
    b"content-security-policy",
    b"sandbox allow-downloads allow-forms allow-modals allow-popups allow-scripts",
)
"""For what is served below the daemon's own origin: a page there is of no origin at all."""
_TOKEN = TOKEN.encode()


def to_server(given: Iterable[tuple[bytes, bytes]], visit: Visit) -> Headers:
    """The headers of a request, less those that frame its body. Names in lower case."""
    given = list(given)
    dropped = _dropped(given) | _NOT_PASSED_ON
    kept: Headers = [
        (b"host", b"localhost:%d" % visit.target.port),
        (b"x-forwarded-host", visit.host.encode("latin-1")),
        (b"x-forwarded-proto", visit.scheme.encode()),
    ]
    if visit.target.prefix:
        kept.append((b"x-forwarded-prefix", visit.target.prefix))
    for name, value in given:
        if (
            (name == b"authorization" and visit.authorization)
            or (name == b"referer" and _TOKEN not in value)
            or (name not in dropped and not name.startswith(b"x-forwarded-"))
        ):
            kept.append((name, value))
        elif name == b"origin":
            kept.append((name, _origin(value, visit)))
        elif name == b"cookie" and visit.cookies and (theirs := _theirs(value)):
            kept.append((name, theirs))
    return kept


def to_client(given: Iterable[tuple[bytes, bytes]], visit: Visit) -> Headers:
    """The headers of an answer. Names in lower case."""
    given = [(name.lower(), value) for name, value in given]
    dropped = _dropped(given) | _OF_THE_WHOLE_SITE | _FRONT_DOORS
    kept: Headers = []
    if visit.target.prefix:
        dropped |= {b"service-worker-allowed"}
        kept.append(_SANDBOX)
    for name, value in given:
        if name in dropped:
            continue
        if name == b"location":
            kept.append((name, _location(value, visit)))
        elif name == b"set-cookie":
            if visit.cookies and (cookie := _confined(value, visit.target.prefix)):
                kept.append((name, cookie))
        else:
            kept.append((name, value))
    return kept


def port_cookie(visit: Visit, seconds: int) -> bytes:
    """Our own: for this port's paths alone, or its host."""
    secure = "; Secure" if visit.scheme == "https" else ""
    path = visit.target.prefix.decode() + "/"
    return (
        f"{TOKEN}={visit.token}; Path={path}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}"
    ).encode()


def _dropped(headers: Headers) -> frozenset[bytes]:
    named = [value for name, value in headers if name == b"connection"]
    tokens = {token.strip().lower() for value in named for token in value.split(b",")}
    return _HOP_BY_HOP | (tokens - _KEPT)


def _theirs(cookies: bytes) -> bytes:
    pairs = [each.strip() for each in cookies.split(b";")]
    return b"; ".join(each for each in pairs if each and each.partition(b"=")[0] != _TOKEN)


def _origin(value: bytes, visit: Visit) -> bytes:
    """The server's own pages come from where it believes to be."""
    own = {f"{scheme}://{visit.host.lower()}".encode() for scheme in ("http", "https")}
    return b"http://localhost:%d" % visit.target.port if value.lower() in own else value


def _location(value: bytes, visit: Visit) -> bytes:
    """A place of the server's own, as the client reaches it."""
    port, prefix = visit.target.port, visit.target.prefix
    host = visit.host.encode("latin-1")
    names = (b"http://localhost:%d" % port, b"http://127.0.0.1:%d" % port)
    for own in (*names, b"http://" + host, b"https://" + host, b"//" + host):
        if value.startswith(own) and value[len(own) : len(own) + 1] in (b"", b"/", b"?", b"#"):
            path = value[len(own) :]
            value = path if path.startswith(b"/") else b"/" + path
            break
    if not value.startswith(b"/") or value.startswith(b"//"):
        return value
    return value if (value + b"/").startswith(prefix + b"/") else prefix + value


def _confined(cookie: bytes, prefix: bytes) -> bytes:
    """A Set-Cookie for the server's own host and paths only; empty for one in our name."""
    pair, *attributes = cookie.split(b";")
    if pair.partition(b"=")[0].strip() == _TOKEN:
        return b""
    kept = [pair]
    for attribute in attributes:
        name, _, value = attribute.partition(b"=")
        name, value = name.strip().lower(), value.strip()
        if name == b"domain":
            continue
        if name != b"path":
            kept.append(attribute)
        elif value.startswith(b"/"):
            inside = (value + b"/").startswith(prefix + b"/")
            kept.append(b" Path=" + (value if inside else prefix + value))
    return b";".join(kept)
