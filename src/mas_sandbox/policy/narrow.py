"""What a policy and the one that narrows it come to together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import WORKSPACE, Isolation

from .grants import (
    HttpRule,
    NetworkPolicy,
    PathGrant,
    beneath,
    cidr_covered,
    covering,
    host_covered,
    http_covered,
)
from .model import Policy
from .tool_isolation import both

LIMITS = (
    "timeout_ms",
    "cpus",
    "cpu_ms",
    "mem_mb",
    "pids",
    "nofile",
    "disk_mb",
    "disk_files",
    "io_mb_s",
    "iops",
    "bandwidth_kb_s",
    "output_bytes",
    "max_concurrent",
)


def narrow(outer: Policy, inner: Policy, who: str) -> Policy:
    """The policy in force where `inner` (of `who`: "sandbox", "call") narrows `outer`.

    What `inner` does not mention it inherits. Raises SandboxError(policy_denied)
    naming the first field in which it asks for more than `outer` allows. Where
    `outer` never mentioned environment, network or host directories, there is
    nothing of them to ask for: those are the operator's to give.

    The result keeps `outer`'s rules only: each layer's rules are a conjunction that
    one list cannot hold, so decisions are made on the layers (`decide.compile_policy`).
    """
    paths = _paths(outer, inner, who)
    changes: dict[str, Any] = {
        "tools": _tools(outer, inner, who),
        "capabilities": _subset(outer, inner, "capabilities", who),
        "paths": paths,
        "env": _env(outer, inner, who),
        "network": _network(outer.network, inner.network, who),
        "workdir": _workdir(outer, inner, paths, who),
        "min_isolation": _isolation(outer, inner, who),
        "tool_isolation": both(outer.tool_isolation, inner.tool_isolation),
    }
    for field in LIMITS:
        changes[field] = _limit(who, field, getattr(outer, field), getattr(inner, field))
    return outer.model_copy(update=changes)


def _limit(who: str, field: str, allowed: float | None, asked: float | None) -> float | None:
    if allowed is not None and asked is not None and asked > allowed:
        raise _widening(who, field, asked, f"at most {allowed}")
    return allowed if asked is None else asked


def _widening(who: str, field: str, asked: object, allowed: object) -> SandboxError:
    return SandboxError(
        ErrorCode.POLICY_DENIED,
        f"the {who}'s policy may only narrow: {field} asks for {str(asked)[:200]}, "
        f"allowed is {str(allowed)[:400]}. Ask for less, or leave {field} out to inherit it",
    )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "nothing"


def _covered(
    who: str,
    field: str,
    asked: Iterable[str],
    allowed: Iterable[str],
    covers: Callable[[str, str], bool] = str.__eq__,
) -> None:
    """Raise for the first of `asked` that nothing in `allowed` covers."""
    allowed = tuple(allowed)
    for value in asked:
        if not any(covers(value, by) for by in allowed):
            raise _widening(who, field, value, _listed(allowed))


def _tools(outer: Policy, inner: Policy, who: str) -> tuple[str, ...] | None:
    allowed, asked = outer.granted_tools, inner.granted_tools
    if asked is None or allowed is None:
        return allowed if asked is None else asked
    if "*" in allowed:
        return asked
    if inner.tools is not None:
        _covered(who, "tools", asked, allowed)
        return asked
    # Named by rules alone, which narrow whatever they say.
    return allowed if "*" in asked else tuple(tool for tool in asked if tool in allowed)


def _subset(outer: Policy, inner: Policy, field: str, who: str) -> tuple[str, ...] | None:
    allowed: tuple[str, ...] | None = getattr(outer, field)
    asked: tuple[str, ...] | None = getattr(inner, field)
    if asked is None:
        return allowed
    if allowed is not None:
        _covered(who, field, asked, allowed)
    return asked


def _env(outer: Policy, inner: Policy, who: str) -> tuple[str, ...] | None:
    if inner.env is None:
        return outer.env
    _covered(who, "env", inner.env, outer.env or ())
    return inner.env


def _paths(outer: Policy, inner: Policy, who: str) -> tuple[PathGrant, ...] | None:
    """The intersection: what both grant, in the weaker of the two modes."""
    if inner.paths is None:
        return outer.paths
    if outer.paths is None:
        for grant in inner.paths:
            if grant.host is not None:
                raise _widening(who, "paths", f"host directory {grant.host}", "none")
        return inner.paths
    for grant in inner.paths:
        _check_grant(grant, outer.paths, who)
    kept = (grant.path for grant in outer.paths if covering(grant.path, inner.paths))
    places = dict.fromkeys([*(grant.path for grant in inner.paths), *kept])
    return tuple(_both(path, outer.paths, inner.paths) for path in places)


def _check_grant(grant: PathGrant, allowed: tuple[PathGrant, ...], who: str) -> None:
    offered = ", ".join(f"{by.path} ({by.mode})" for by in allowed) or "nothing"
    by = covering(grant.path, allowed)
    if by is None or (grant.mode == "rw" and by.mode == "ro"):
        raise _widening(who, "paths", f"{grant.path} ({grant.mode})", offered)
    if grant.host is not None and grant.host != _host_of(grant.path, by):
        raise _widening(who, "paths", f"host directory {grant.host}", "what the operator mapped")


def _both(path: str, outer: tuple[PathGrant, ...], inner: tuple[PathGrant, ...]) -> PathGrant:
    given, asked = covering(path, outer), covering(path, inner)
    assert given is not None
    assert asked is not None
    writable = given.mode == "rw" and asked.mode == "rw"
    return PathGrant(path=path, mode="rw" if writable else "ro", host=_host_of(path, given))


def _host_of(path: str, given: PathGrant) -> str | None:
    """The host directory that appears at `path` because of a grant above it."""
    if given.host is None:
        return None
    below = path[len(given.path.rstrip("/")) :]
    return (given.host.rstrip("/") + below).rstrip("/") or "/"


def _network(
    outer: NetworkPolicy | None, inner: NetworkPolicy | None, who: str
) -> NetworkPolicy | None:
    if inner is None:
        return outer
    allowed = outer or NetworkPolicy()
    _covered(who, "network.hosts", inner.hosts, allowed.hosts, host_covered)
    _covered(who, "network.cidrs", inner.cidrs, allowed.cidrs, cidr_covered)
    if inner.ports is not None:
        ports = map(str, inner.ports)
        _covered(who, "network.ports", ports, map(str, allowed.allowed_ports))
    limits = {
        field: _limit(who, f"network.{field}", getattr(allowed, field), getattr(inner, field))
        for field in ("max_connections", "max_mb")
    }
    return inner.model_copy(
        update={
            "ports": allowed.allowed_ports if inner.ports is None else inner.ports,
            "http": _http(allowed, inner, who),
            **limits,
        }
    )


def _http(allowed: NetworkPolicy, inner: NetworkPolicy, who: str) -> tuple[HttpRule, ...] | None:
    if inner.http is None:
        return allowed.http
    if allowed.http is not None:
        for rule in inner.http:
            if not any(http_covered(rule, by) for by in allowed.http):
                raise _widening(
                    who, "network.http", _shown(rule), _listed(map(_shown, allowed.http))
                )
    return inner.http


def _shown(rule: HttpRule) -> str:
    where = "any host" if rule.hosts is None else _listed(rule.hosts)
    return f"{'/'.join(rule.methods)} {_listed(rule.paths)} at {where}"


def _workdir(
    outer: Policy, inner: Policy, paths: tuple[PathGrant, ...] | None, who: str
) -> str | None:
    if inner.workdir is None:
        return outer.workdir
    roots = (WORKSPACE,) if paths is None else tuple(grant.path for grant in paths)
    if not any(beneath(inner.workdir, root) for root in roots):
        raise _widening(who, "workdir", inner.workdir, f"a directory beneath {_listed(roots)}")
    return inner.workdir


def _isolation(outer: Policy, inner: Policy, who: str) -> Isolation | None:
    allowed, asked = outer.min_isolation, inner.min_isolation
    if allowed is None or asked is None:
        return allowed or asked
    if asked.strength < allowed.strength:
        raise _widening(who, "min_isolation", asked, f"{allowed} or stronger")
    return asked
