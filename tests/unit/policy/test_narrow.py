"""A layer can only take away."""

from __future__ import annotations

from typing import Any

import pytest

from mas_sandbox.policy.controls import required_controls
from mas_sandbox.policy.default import DEFAULT_POLICY, LOCAL_POLICY
from mas_sandbox.policy.grants import PathGrant, nested_read_only
from mas_sandbox.policy.model import Policy, parse_policy
from mas_sandbox.policy.narrow import LIMITS, narrow
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def narrowed(outer: dict[str, Any], inner: dict[str, Any]) -> Policy:
    return narrow(parse_policy(outer), parse_policy(inner), "call")


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({"tools": ["bash"]}, {"tools": ["bash", "python"]}),
        ({"tools": ["bash"]}, {"tools": ["*"]}),
        ({"tools": []}, {"tools": ["bash"]}),
        ({"capabilities": ["file"]}, {"capabilities": ["exec"]}),
        ({"env": ["LANG"]}, {"env": ["HOME"]}),
        ({}, {"env": ["SECRET_TOKEN"]}),
        ({"network": {}}, {"network": {"hosts": ["example.org"]}}),
        ({}, {"network": {"hosts": ["example.org"]}}),
        (
            {"network": {"hosts": ["*.example.org"]}},
            {"network": {"hosts": ["example.org"]}},
        ),
        (
            {"network": {"hosts": ["*.example.org"]}},
            {"network": {"hosts": ["evil-example.org"]}},
        ),
        (
            {"network": {"hosts": ["*.a.example.org"]}},
            {"network": {"hosts": ["*.example.org"]}},
        ),
        (
            {"network": {"hosts": ["a.example.org"]}},
            {"network": {"hosts": ["*.a.example.org"]}},
        ),
        ({"network": {"hosts": ["a.org"]}}, {"network": {"hosts": ["a.org"], "ports": [80]}}),
        ({"network": {"cidrs": ["10.1.0.0/16"]}}, {"network": {"cidrs": ["10.0.0.0/8"]}}),
        ({"network": {"cidrs": ["10.0.0.0/8"]}}, {"network": {"cidrs": ["fd00::/8"]}}),
        ({"paths": [{"path": "/ws"}]}, {"paths": [{"path": "/ws", "mode": "rw"}]}),
        ({"paths": [{"path": "/ws"}]}, {"paths": [{"path": "/ws-evil"}]}),
        ({"paths": [{"path": "/ws/a"}]}, {"paths": [{"path": "/ws"}]}),
        ({"paths": [{"path": "/ws"}]}, {"paths": [{"path": "/ws", "host": "/etc"}]}),
        ({}, {"paths": [{"path": "/data", "host": "/etc"}]}),
        (
            {"paths": [{"path": "/ws", "mode": "rw"}, {"path": "/ws/ro"}]},
            {"paths": [{"path": "/ws/ro/x", "mode": "rw"}]},
        ),
        ({"paths": [{"path": "/ws"}]}, {"workdir": "/etc"}),
        ({}, {"workdir": "/etc"}),
        ({"min_isolation": "kernel"}, {"min_isolation": "process"}),
        *(({limit: 100}, {limit: 101}) for limit in LIMITS),
    ],
)
def test_widening_is_denied_by_name(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    with pytest.raises(SandboxError) as refused:
        narrowed(outer, inner)
    assert refused.value.code is ErrorCode.POLICY_DENIED
    assert next(iter(inner)) in refused.value.message
    assert "the call's policy may only narrow" in refused.value.message


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ({"tools": ["*"]}, {"tools": ["bash"]}),
        ({"tools": ["bash"]}, {"tools": []}),
        ({"capabilities": ["file", "exec"]}, {"capabilities": ["file"]}),
        ({"env": ["LANG", "TZ"]}, {"env": ["TZ"]}),
        ({"min_isolation": "process"}, {"min_isolation": "vm"}),
        ({}, {"min_isolation": "vm", "timeout_ms": 5, "capabilities": []}),
        ({}, {"paths": [{"path": "/workspace/a"}], "workdir": "/workspace/a"}),
        *(({limit: 100}, {limit: 99}) for limit in LIMITS),
    ],
)
def test_what_narrows_is_in_force(outer: dict[str, Any], inner: dict[str, Any]) -> None:
    result, asked = narrowed(outer, inner), parse_policy(inner)
    for field in inner:
        assert getattr(result, field) == getattr(asked, field)


def test_what_is_not_mentioned_is_inherited() -> None:
    assert narrow(DEFAULT_POLICY, Policy(), "call") == DEFAULT_POLICY
    result = narrow(DEFAULT_POLICY, Policy(timeout_ms=5), "call")
    assert result == DEFAULT_POLICY.model_copy(update={"timeout_ms": 5})


def test_hosts_below_a_wildcard_and_inherited_ports() -> None:
    outer = {"network": {"hosts": ["*.example.org"], "ports": [8443]}}
    network = narrowed(outer, {"network": {"hosts": ["*.a.example.org", "b.example.org"]}}).network
    assert network is not None
    assert network.hosts == ("*.a.example.org", "b.example.org")
    assert network.allowed_ports == (8443,)
    closed = narrowed(outer, {"network": {}}).network
    assert closed is not None
    assert closed.reaches_nothing


def test_cidrs_inside_a_block() -> None:
    outer = {"network": {"cidrs": ["10.0.0.0/8"]}}
    network = narrowed(outer, {"network": {"cidrs": ["10.1.0.0/16"]}}).network
    assert network is not None
    assert network.cidrs == ("10.1.0.0/16",)


def test_a_read_only_place_stays_so_inside_a_wider_grant() -> None:
    outer = {"paths": [{"path": "/ws", "mode": "rw"}, {"path": "/ws/keep"}]}
    result = narrowed(outer, {"paths": [{"path": "/ws", "mode": "rw"}]})
    assert result.paths is not None
    assert set(result.paths) == {
        PathGrant(path="/ws", mode="rw"),
        PathGrant(path="/ws/keep", mode="ro"),
    }
    weaker = narrowed(
        {"paths": [{"path": "/ws"}, {"path": "/ws/out", "mode": "rw"}]},
        {"paths": [{"path": "/ws"}]},
    )
    assert weaker.paths is not None
    assert {grant.mode for grant in weaker.paths} == {"ro"}


def test_a_grant_beneath_a_host_directory_keeps_its_place_on_the_host() -> None:
    outer = {"paths": [{"path": "/data", "mode": "rw", "host": "/srv/data"}]}
    result = narrowed(outer, {"paths": [{"path": "/data/in"}]})
    assert result.paths == (PathGrant(path="/data/in", mode="ro", host="/srv/data/in"),)


def test_rules_of_an_inner_layer_narrow_the_tools_they_name() -> None:
    rules = {"rules": [{"action": "allow", "tools": ["bash", "python"], "reason": "x"}]}
    assert narrowed({"tools": ["bash", "grep"]}, rules).tools == ("bash",)
    assert narrowed({"tools": ["*"]}, rules).tools == ("bash", "python")
    assert narrowed({"tools": ["bash"]}, {"rules": [{"action": "allow", "reason": "x"}]}).tools == (
        "bash",
    )


def test_controls_are_needed_for_what_is_mentioned_only() -> None:
    assert required_controls(Policy(tools=("*",), max_concurrent=3)) == frozenset()
    assert required_controls(LOCAL_POLICY) == {Control.ENV, Control.TIMEOUT, Control.OUTPUT}
    assert required_controls(DEFAULT_POLICY) == {
        Control.ENV,
        Control.TIMEOUT,
        Control.OUTPUT,
        Control.FILESYSTEM,
        Control.NETWORK,
        Control.MEMORY,
        Control.CPU,
        Control.PIDS,
        Control.DISK,
    }
    for grants, needed in (
        ([{"path": "/workspace", "mode": "rw"}], False),
        ([{"path": "/workspace", "mode": "rw"}, {"path": "/data", "host": "/srv"}], False),
        ([{"path": "/workspace", "mode": "ro", "host": "/srv"}], False),
        ([{"path": "/workspace", "mode": "ro"}], True),
        ([{"path": "/workspace/a", "mode": "rw"}], True),
        ([{"path": "/data", "host": "/srv"}], True),
        ([], True),
    ):
        assert (Control.PATHS in required_controls(parse_policy({"paths": grants}))) is needed
    rest = parse_policy(
        {"iops": 5, "bandwidth_kb_s": 5, "paths": [{"path": "/data", "host": "/srv"}]}
    )
    assert required_controls(rest) >= {Control.IO, Control.BANDWIDTH, Control.HOST_PATHS}


def _reaches_out(policy: Policy) -> bool:
    return Control.EGRESS in required_controls(policy)


def test_egress_is_needed_only_where_a_connection_is_allowed() -> None:
    assert not _reaches_out(Policy())
    assert not _reaches_out(DEFAULT_POLICY)
    assert not _reaches_out(parse_policy({"network": {"hosts": ["a.org"], "ports": []}}))
    assert _reaches_out(parse_policy({"network": {"hosts": ["a.org"]}}))
    assert _reaches_out(parse_policy({"network": {"cidrs": ["10.0.0.0/8"]}}))


@pytest.mark.parametrize(
    ("grants", "found"),
    [
        ([("/workspace", "rw")], None),
        ([("/workspace", "ro"), ("/workspace/out", "rw")], None),
        ([("/workspace", "rw"), ("/workspace/lib", "ro")], "/workspace/lib"),
        ([("/a", "rw"), ("/a/b", "ro"), ("/a/b/c", "rw")], "/a/b"),
        ([("/workspace", "rw"), ("/workspace-evil", "ro")], None),
    ],
)
def test_read_only_inside_read_write_is_found(
    grants: list[tuple[str, str]], found: str | None
) -> None:
    paths = [{"path": path, "mode": mode} for path, mode in grants]
    inner = nested_read_only(Policy.model_validate({"paths": paths}).paths or ())
    assert (inner and inner.path) == found


def test_a_read_only_host_directory_may_lie_in_a_writable_path() -> None:
    """The mount holds it, not Landlock."""
    paths = [{"path": "/workspace", "mode": "rw"}, {"path": "/workspace/lib", "host": "/srv"}]
    assert nested_read_only(Policy.model_validate({"paths": paths}).paths or ()) is None


def test_what_narrows_a_host_directory_at_the_root_keeps_it() -> None:
    both = narrowed({"paths": [{"path": "/", "host": "/srv"}]}, {"paths": [{"path": "/"}]})
    assert both.paths == (PathGrant(path="/", host="/srv"),)
    below = narrowed({"paths": [{"path": "/", "host": "/srv"}]}, {"paths": [{"path": "/a"}]})
    assert below.paths is not None
    assert below.paths[0] == PathGrant(path="/a", host="/srv/a")
