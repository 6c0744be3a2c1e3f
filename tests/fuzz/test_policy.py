"""Policies: a file is read one way or refused, and what narrows never allows more."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from hypothesis import assume
from hypothesis import strategies as st

from fuzz.engine import corpus, fuzz, inputs, mutated
from mas_sandbox.egress.host import parse_host
from mas_sandbox.egress.reach import Reach
from mas_sandbox.egress.refusal import Refused
from mas_sandbox.policy.decide import compile_policy
from mas_sandbox.policy.file import load_policy_file
from mas_sandbox.policy.glob import compile_glob
from mas_sandbox.policy.grants import (
    PathGrant,
    beneath,
    covering,
    host_covered,
    path_covered,
)
from mas_sandbox.policy.model import Policy, parse_policy
from mas_sandbox.policy.narrow import LIMITS, narrow
from mas_sandbox.policy.rules import Action
from mas_sandbox.policy.strict_yaml import load
from mas_sandbox.wire.errors import ErrorCode, SandboxError

PLAIN = st.characters(min_codepoint=32, max_codepoint=126)
DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(PLAIN, max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(PLAIN, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@fuzz(120, data=inputs("policy-file"), suffix=st.sampled_from([".yaml", ".json"]))
def test_a_policy_file_is_read_or_refused_by_name(data: bytes, suffix: str, tmp_path: Path) -> None:
    place = tmp_path / f"policy{suffix}"
    place.write_bytes(data)
    try:
        read = load_policy_file(place)
    except SandboxError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
        assert str(place) in error.message
        assert len(error.message) < 5000
        return
    assert read.policies
    assert read.default is None or read.default in read.policies.values()


@fuzz(150, data=mutated("policy-file"))
def test_yaml_that_is_accepted_means_what_it_does_elsewhere(data: bytes) -> None:
    try:
        found = load(data, {})
    except ValueError:
        return
    assert repr(found) == repr(yaml.safe_load(data.decode()))


@fuzz(60, value=DATA)
def test_json_is_yaml_with_the_same_meaning(value: Any) -> None:
    assert load(json.dumps(value).encode(), {}) == value


@fuzz(150, pattern=st.text("ab*?\n", max_size=12), text=st.text("ab?*\n", max_size=16))
def test_globs_agree_with_regular_expressions(pattern: str, text: str) -> None:
    spelt = "".join({"*": ".*", "?": "."}.get(each, re.escape(each)) for each in pattern)
    assert compile_glob(pattern)(text) == bool(re.fullmatch(spelt, text, re.DOTALL))


PARTS = st.lists(st.sampled_from(["a", "b", "ab", "workspace", "-"]), max_size=4)
ABSOLUTE = PARTS.map(lambda parts: "/" + "/".join(parts))
NESTED = st.lists(st.sampled_from(["a", "b"]), max_size=3).map(lambda parts: "/" + "/".join(parts))


@fuzz(60, path=ABSOLUTE, root=ABSOLUTE)
def test_beneath_agrees_with_pathlib(path: str, root: str) -> None:
    assert beneath(path, root) == PurePosixPath(path).is_relative_to(root)


LABELS = st.sampled_from(["a", "b", "evil", "example", "org", "a-b", "x_y"])
NAMES = st.lists(LABELS, min_size=2, max_size=4).map(".".join)
PATTERNS = st.builds(lambda star, name: star + name, st.sampled_from(["", "*."]), NAMES)
REQUESTS = st.lists(st.sampled_from(["v1", "models", "a"]), max_size=3).map(
    lambda p: "/" + "/".join(p)
)
REQUEST_PATTERNS = st.builds(
    lambda path, star: path.rstrip("/") + star or "/", REQUESTS, st.sampled_from(["", "/*"])
)


def matched(pattern: str, name: str) -> bool:
    """As docs/policy.md has it: the name itself, or any name below `*.`."""
    if pattern.startswith("*."):
        return name.split(".")[-len(pattern.split(".")) + 1 :] == pattern.split(".")[1:] and len(
            name.split(".")
        ) >= len(pattern.split("."))
    return name == pattern


@fuzz(150, pattern=PATTERNS, by=PATTERNS, name=NAMES)
def test_a_covered_host_pattern_matches_nothing_more(pattern: str, by: str, name: str) -> None:
    assert host_covered(name, by) == matched(by, name)
    if host_covered(pattern, by):
        assert matched(by, name) or not matched(pattern, name)


@fuzz(150, pattern=REQUEST_PATTERNS, by=REQUEST_PATTERNS, path=REQUESTS)
def test_a_covered_request_path_matches_nothing_more(pattern: str, by: str, path: str) -> None:
    if path_covered(pattern, by) and path_covered(path, pattern):
        assert path_covered(path, by)


TOOLS = st.lists(st.sampled_from(["bash", "python", "grep", "*"]), max_size=3, unique=True)
ENV = st.lists(st.sampled_from(["HOME", "LANG", "TERM"]), max_size=2, unique=True)
CIDRS = st.lists(
    st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "fd00::/8", "fd00:1::/32"]),
    max_size=2,
)
CONDITIONS = st.dictionaries(
    st.sampled_from(["command", "n", "deep.er"]),
    st.sampled_from(
        [{"eq": "ls"}, {"in": ["ls", 1]}, {"<=": 3}, {">": 1.5}, {"glob": "l*"}, {"exists": True}, {"cidr": "10.0.0.0/8"}]
    ),
    max_size=2,
)  # fmt: skip
RULES = st.lists(
    st.fixed_dictionaries(
        {"action": st.sampled_from(["allow", "deny", "ask"]), "tools": TOOLS.filter(bool), "when": CONDITIONS, "reason": st.just("r")}
    ),
    max_size=3,
)  # fmt: skip
HTTP = st.lists(
    st.fixed_dictionaries(
        {"methods": st.lists(st.sampled_from(["GET", "POST", "PUT"]), min_size=1, max_size=2)},
        optional={
            "hosts": st.lists(PATTERNS, max_size=2),
            "paths": st.lists(REQUEST_PATTERNS, max_size=2),
        },
    ),
    max_size=2,
)
NETWORK = st.fixed_dictionaries(
    {},
    optional={
        "hosts": st.lists(PATTERNS, max_size=3),
        "cidrs": CIDRS,
        "ports": st.lists(st.sampled_from([80, 443, 8080]), max_size=2),
        "http": HTTP,
        "max_connections": st.integers(1, 4),
        "max_mb": st.integers(1, 4),
    },
)
GRANTS = st.lists(
    st.fixed_dictionaries(
        {"path": NESTED, "mode": st.sampled_from(["ro", "rw"])}, optional={"host": ABSOLUTE}
    ),
    max_size=3,
    unique_by=lambda grant: grant["path"],
)
DECIDING = st.fixed_dictionaries(
    {},
    optional={
        "tools": TOOLS,
        "capabilities": st.lists(st.sampled_from(["file", "exec"]), max_size=2, unique=True),
        "rules": RULES,
    },
)
HOLDING = st.fixed_dictionaries(
    {},
    optional={
        "tools": TOOLS,
        "paths": GRANTS,
        "env": ENV,
        "min_isolation": st.sampled_from(["none", "process", "kernel", "vm"]),
        "tool_isolation": st.dictionaries(
            st.sampled_from(["bash", "*"]), st.sampled_from(["process", "vm"]), max_size=2
        ),
        "workdir": NESTED,
        "timeout_ms": st.integers(1, 5),
        "cpus": st.sampled_from([0.5, 1.0, 2.0]),
        "output_bytes": st.integers(0, 5),
    },
)
CALLS = st.tuples(
    st.sampled_from(["bash", "python", "grep", "other"]),
    st.sets(st.sampled_from(["file", "exec", "network"]), max_size=2).map(frozenset),
    st.dictionaries(
        st.sampled_from(["command", "n", "deep"]),
        st.sampled_from(["ls", "10.1.2.3", 1, 3.5, None, True, {"er": "ls"}, [1]]),
        max_size=2,
    ),
)


def policies(outer: Any, inner: Any) -> tuple[Policy, Policy, Policy]:
    """Both, and what they come to. Rejects the example where there is no such thing."""
    try:
        above, below = parse_policy(outer), parse_policy(inner)
    except SandboxError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
        assume(False)
    try:
        return above, below, narrow(above, below, "call")
    except SandboxError as error:
        assert error.code is ErrorCode.POLICY_DENIED
        assume(False)
    raise AssertionError


@st.composite
def pairs(draw: st.DrawFn, policies: st.SearchStrategy[dict[str, Any]]) -> tuple[Any, Any]:
    """An outer one, and one that shares much of it, so that it narrows more often than it widens."""
    outer, inner = draw(policies), draw(policies)
    shared = draw(st.integers(0, (1 << len(outer)) - 1))
    same = {name: outer[name] for bit, name in enumerate(outer) if shared >> bit & 1}
    return outer, inner | same


@fuzz(150, pair=pairs(DECIDING), calls=st.lists(CALLS, min_size=2, max_size=5))
def test_no_call_is_allowed_by_two_layers_that_the_outer_one_denies(pair: Any, calls: Any) -> None:
    above, below, _ = policies(*pair)
    alone, together = compile_policy([above]), compile_policy([above, below])
    order = [Action.DENY, Action.ASK, Action.ALLOW]
    for call in calls:
        before, after = alone.decide(*call), together.decide(*call)
        assert order.index(after.action) <= order.index(before.action), call


def writable(path: str, grants: tuple[PathGrant, ...] | None) -> tuple[int, str | None] | None:
    if grants is None:
        return None
    grant = covering(path, grants)
    if grant is None:
        return (0, None)
    host = grant.host and grant.host.rstrip("/") + path[len(grant.path.rstrip("/")) :]
    return (2 if grant.mode == "rw" else 1, host or (grant.host and "/"))


@fuzz(150, pair=pairs(HOLDING))
def test_a_narrowed_policy_has_no_more_of_anything(pair: Any) -> None:
    above, _, both = policies(*pair)
    for field in LIMITS:
        allowed, left = getattr(above, field), getattr(both, field)
        assert allowed is None or left <= allowed, field
    for field in ("tools", "capabilities", "env"):
        allowed = above.granted_tools if field == "tools" else getattr(above, field)
        left = getattr(both, field)
        assert allowed is None or left is not None, field
        assert allowed is None or "*" in allowed or set(left) <= set(allowed), field
    for tool in ("bash", "other"):
        asked, held = above.isolation_for(tool), both.isolation_for(tool)
        assert asked is None or (held is not None and held.strength >= asked.strength)


@fuzz(
    150,
    outer=GRANTS,
    kept=st.lists(st.sampled_from(["no", "ro", "rw"]), min_size=3, max_size=3),
    more=GRANTS | st.just([]),
    paths=st.lists(NESTED, min_size=4, max_size=8),
)
def test_a_narrowed_policy_grants_no_more_paths(
    outer: Any, kept: list[str], more: Any, paths: list[str]
) -> None:
    """Of some of the outer one's, in one mode or the other, and some of its own."""
    same = [
        grant | {"mode": mode} for grant, mode in zip(outer, kept, strict=False) if mode != "no"
    ]
    inner = {grant["path"]: grant for grant in [*more, *same]}
    above, _, both = policies({"paths": outer}, {"paths": list(inner.values())})
    for path in paths:
        before, after = writable(path, above.paths), writable(path, both.paths)
        if before is not None:
            assert after is not None
            assert after[0] <= before[0], path
            assert after[0] == 0 or after[1] == before[1], path
        elif after is not None:
            assert after[1] is None, "a host directory that nobody gave"


def allows(reach: Reach, name: str, port: int, method: str, path: str) -> bool:
    host = parse_host(name)
    try:
        reach.target(host, port)
        if host.address is not None:
            reach.address(host, host.address)
        reach.request(host, method, path)
    except Refused:
        return False
    return True


@fuzz(
    150,
    pair=pairs(NETWORK),
    names=st.lists(
        NAMES | st.sampled_from(["10.1.2.3", "10.9.9.9", "[fd00:1::1]"]), min_size=2, max_size=6
    ),
    port=st.sampled_from([80, 443, 8080]),
    method=st.sampled_from(["GET", "POST"]),
    path=REQUESTS,
)
def test_a_narrowed_policy_reaches_nothing_more(
    pair: Any, names: list[str], port: int, method: str, path: str
) -> None:
    above, _, both = policies({"network": pair[0]}, {"network": pair[1]})
    outer, left = Reach(above.network), Reach(both.network)
    for name in names:
        assert allows(outer, name, port, method, path) or not allows(left, name, port, method, path)


def test_the_corpus_has_files_that_are_read(tmp_path: Path) -> None:
    """Else every mutation of it would be refused for the same reason."""
    read = 0
    for data in corpus("policy-file"):
        place = tmp_path / "policy.yaml"
        place.write_bytes(data)
        try:
            read += bool(load_policy_file(place).policies)
        except SandboxError:
            continue
    assert read >= 3
