"""URLs of the web: checked, and spelt so that every reader takes them for the same."""

from __future__ import annotations

MAX_LENGTH = 8192
DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._:")


class Url:
    """`host`: lower case, ASCII, an IPv6 address without brackets; `target`: path and
    query, percent-encoded (RFC 9112 section 3.2.1). The fragment is dropped."""

    __slots__ = ("host", "port", "scheme", "target")

    def __init__(self, scheme: str, host: str, port: int, target: str) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.target = target

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError, worded for whoever wrote the URL."""
        from urllib.parse import quote, urlsplit

        if not 0 < len(text) <= MAX_LENGTH:
            raise ValueError(f"a URL has 1 to {MAX_LENGTH} characters")
        # urlsplit would drop some of these silently.
        if any(character <= " " or character in "\\\x7f" for character in text):
            raise ValueError("a URL holds no spaces, control characters or backslashes")
        parts = urlsplit(text)
        if parts.scheme not in DEFAULT_PORTS:
            raise ValueError("a URL begins with http:// or https:// here")
        if "@" in parts.netloc:
            raise ValueError("no user and password in the URL; send an Authorization header")
        port = parts.port
        if port is None:
            port = DEFAULT_PORTS[parts.scheme]
        query = f"?{parts.query}" if parts.query else ""
        target = quote((parts.path or "/") + query, safe="!$%&'()*+,/:;=?@[]~|")
        return cls(parts.scheme, _ascii_host(parts.hostname or ""), port, target)

    def joined(self, reference: str) -> Url:
        """Where a reference in a document of this URL leads. Raises ValueError."""
        from urllib.parse import urljoin

        return Url.parse(urljoin(str(self), reference.strip().replace(" ", "%20")))

    @property
    def authority(self) -> str:
        """Host and port, as CONNECT has them."""
        return f"{self._bracketed}:{self.port}"

    @property
    def host_field(self) -> str:
        """Host, and the port where it is not the scheme's own: what the field Host says."""
        default = self.port == DEFAULT_PORTS[self.scheme]
        return self._bracketed if default else self.authority

    @property
    def origin(self) -> tuple[str, str, int]:
        return (self.scheme, self.host, self.port)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_field}{self.target}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def _ascii_host(host: str) -> str:
    try:
        name = host if host.isascii() else host.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise ValueError(f"{host[:80]!r} is no name of a host") from error
    if not name or not _HOST.issuperset(name):
        raise ValueError(f"{host[:80]!r} is no name of a host")
    return name
