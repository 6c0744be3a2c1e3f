"""What a policy grants of the file system and the network, and how a grant covers another."""

from __future__ import annotations

import posixpath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

MAX_PATH = 4096
MAX_GRANTS = 256
DEFAULT_PORTS = (443,)


def _normalised(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError(f"{path[:80]!r} is not absolute; begin it with '/'")
    if "\0" in path or len(path) > MAX_PATH:
        raise ValueError(f"a path holds no NUL and at most {MAX_PATH} characters")
    # normpath keeps a leading "//", which POSIX leaves to the system to interpret.
    normal = "/" + posixpath.normpath(path).lstrip("/")
    if path != normal:
        raise ValueError(f"{path[:80]!r} is not normalised; write {normal[:80]!r}")
    return path


AbsolutePath = Annotated[str, AfterValidator(_normalised)]
"""An absolute path without `.`, `..`, empty parts or a trailing slash."""


def beneath(path: str, root: str) -> bool:
    """Whether the normalised `path` is `root` or inside it (`/ws-evil` is not in `/ws`)."""
    return path == root or path.startswith(root if root == "/" else root + "/")


class PathGrant(BaseModel):
    """What tools may do beneath one path of the sandbox.

    `host`: the host directory that appears there, None for the sandbox's own. Of
    nested grants the deepest counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: AbsolutePath
    mode: Literal["ro", "rw"] = "ro"
    host: AbsolutePath | None = None


def covering(path: str, grants: tuple[PathGrant, ...]) -> PathGrant | None:
    """The deepest grant that `path` is beneath."""
    over = [grant for grant in grants if beneath(path, grant.path)]
    return max(over, key=lambda grant: len(grant.path), default=None)


def nested_read_only(grants: tuple[PathGrant, ...]) -> PathGrant | None:
    """A grant that takes write access away beneath another that gives it, if there is one."""
    for inner in grants:
        over = covering(posixpath.dirname(inner.path), grants)
        if inner.mode == "ro" and not inner.host and over is not None and over.mode == "rw":
            return inner
    return None


def _host_pattern(text: str) -> str:
    name = text.lower()
    suffix = name.removeprefix("*.")
    labels = suffix.split(".")
    if len(suffix) > 253 or not all(_is_label(label) for label in labels):
        raise ValueError(
            f"{text[:80]!r} is not a host name; write 'api.example.org' or '*.example.org', "
            "international names as 'xn--...', without port, scheme or trailing dot"
        )
    # inet_aton and URL parsers read a last label such as 1 or 0x7f as an IPv4 address.
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        raise ValueError(f"{text[:80]!r} is an address, not a name; put it under 'cidrs'")
    if suffix != name and len(labels) < 2:
        raise ValueError(f"{text[:80]!r} covers a whole top-level domain; name a domain below it")
    return name


def _is_label(label: str) -> bool:
    return (
        0 < len(label) <= 63
        and label.isascii()
        and label.replace("-", "a").replace("_", "a").isalnum()
        and not label.startswith("-")
        and not label.endswith("-")
    )


def _block(text: str) -> str:
    import ipaddress  # not everyone mentions addresses, everyone pays for start-up

    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text[:80]!r} is not an address block: {error}") from error
    if network.prefixlen == 0:
        raise ValueError(f"{text!r} covers every address; name the blocks that are needed")
    return str(network)


def _method(text: str) -> str:
    if not (text.isascii() and text.isalpha() and text.isupper() and len(text) <= 32):
        raise ValueError(f"{text[:40]!r} is not an HTTP method; write it as in 'GET'")
    if text == "CONNECT":
        raise ValueError("CONNECT opens a connection, which hosts and ports decide on")
    return text


def _request_path(text: str) -> str:
    path = text.removesuffix("/*") if text.endswith("/*") else text
    if not text.startswith("/") or len(text) > 1024 or set(path) & set("*?#%\\"):
        raise ValueError(
            f"{text[:80]!r} is not a path; write '/v1/models', or '/v1/*' for all below /v1/"
        )
    if any(part in (".", "..") for part in path.split("/")) or "//" in path or not text.isascii():
        raise ValueError(f"{text[:80]!r} is not normalised: no '.', '..', '//' or non-ASCII")
    return text


HostPattern = Annotated[str, AfterValidator(_host_pattern)]


class HttpRule(BaseModel):
    """Requests of plain HTTP that may be made. What runs inside TLS is not seen.

    `hosts`: of those that the policy allows, all where None; `paths`: whole paths, or
    `/*` at the end for everything below; the query is not looked at.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: tuple[HostPattern, ...] | None = Field(default=None, max_length=MAX_GRANTS)
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] = Field(
        default=("GET", "HEAD"), max_length=32
    )
    paths: tuple[Annotated[str, AfterValidator(_request_path)], ...] = Field(
        default=("/*",), max_length=MAX_GRANTS
    )


class NetworkPolicy(BaseModel):
    """Where connections may go; without hosts and cidrs: nowhere.

    `hosts`: names, or `*.` before a domain for every name below it (not the domain
    itself); `cidrs`: blocks that may be dialled by address; `ports`: TCP ports of
    both, inherited where None, and 443 where nobody said; `http`: what plain HTTP may
    ask, anything where None; `max_connections`: open at once; `max_mb`: MiB of a
    sandbox's whole life, both directions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    hosts: tuple[HostPattern, ...] = Field(default=(), max_length=MAX_GRANTS)
    cidrs: tuple[Annotated[str, AfterValidator(_block)], ...] = Field(
        default=(), max_length=MAX_GRANTS
    )
    ports: tuple[Annotated[int, Strict(), Field(ge=1, le=65_535)], ...] | None = Field(
        default=None, max_length=MAX_GRANTS
    )
    http: tuple[HttpRule, ...] | None = Field(default=None, max_length=MAX_GRANTS)
    max_connections: Annotated[int, Strict(), Field(ge=1, le=256)] | None = None
    max_mb: Annotated[int, Strict(), Field(ge=1, le=16_777_216)] | None = None

    @property
    def allowed_ports(self) -> tuple[int, ...]:
        return DEFAULT_PORTS if self.ports is None else self.ports

    @property
    def reaches_nothing(self) -> bool:
        return not (self.hosts or self.cidrs) or not self.allowed_ports


def host_covered(pattern: str, by: str) -> bool:
    """Whether every name that `pattern` matches is matched by `by` too (both lower case)."""
    if pattern == by:
        return True
    # The dot is kept: `evil-example.org` is not below `*.example.org`.
    return by.startswith("*.") and pattern.removeprefix("*").endswith(by[1:])


def path_covered(pattern: str, by: str) -> bool:
    """Whether every request path that `pattern` matches is matched by `by` too."""
    return pattern == by or (by.endswith("/*") and pattern.startswith(by[:-1]))


def http_covered(rule: HttpRule, by: HttpRule) -> bool:
    """Whether every request that `rule` allows is allowed by `by` too."""
    hosts = by.hosts is None or (
        rule.hosts is not None
        and all(any(host_covered(host, over) for over in by.hosts) for host in rule.hosts)
    )
    paths = all(any(path_covered(path, over) for over in by.paths) for path in rule.paths)
    return hosts and paths and set(rule.methods) <= set(by.methods)


def cidr_covered(block: str, by: str) -> bool:
    """Whether the address block `block` lies inside `by`."""
    import ipaddress

    inner, outer = ipaddress.ip_network(block), ipaddress.ip_network(by)
    if isinstance(inner, ipaddress.IPv4Network) and isinstance(outer, ipaddress.IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, ipaddress.IPv6Network) and isinstance(outer, ipaddress.IPv6Network):
        return inner.subnet_of(outer)
    return False
