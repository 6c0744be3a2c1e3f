"""What a policy may say, and how it is told when it may not."""

from __future__ import annotations

from typing import Any

import pytest

from mas_sandbox.policy.default import DEFAULT_POLICY, LOCAL_POLICY, completed
from mas_sandbox.policy.grants import NetworkPolicy, PathGrant
from mas_sandbox.policy.model import CapabilityName, Policy, explain, parse_policy
from mas_sandbox.tools.manifest import Capability
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def refusal(fields: dict[str, Any]) -> str:
    with pytest.raises(SandboxError) as refused:
        parse_policy(fields)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    return refused.value.message


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"timeout": 5}, "timeout: unknown field"),
        ({"mem_mb": "512"}, "mem_mb: "),
        ({"mem_mb": True}, "mem_mb: "),
        ({"mem_mb": 1}, "mem_mb: "),
        ({"cpus": 0}, "cpus: "),
        ({"cpus": float("nan")}, "cpus: "),
        ({"timeout_ms": -1}, "timeout_ms: "),
        ({"capabilities": ["root"]}, "capabilities.0: "),
        ({"tools": "bash"}, "tools: "),
        ({"tools": ["ba*"]}, "tools.0: "),
        ({"tools": ["bash\n"]}, "tools.0: "),
        ({"min_isolation": "strong"}, "min_isolation: "),
        ({"paths": [{"path": "workspace"}]}, "not absolute"),
        ({"paths": [{"path": "/workspace/../etc"}]}, "write '/etc'"),
        ({"paths": [{"path": "/workspace/"}]}, "write '/workspace'"),
        ({"paths": [{"path": "//workspace"}]}, "write '/workspace'"),
        ({"paths": [{"path": "/work\0space"}]}, "NUL"),
        ({"paths": [{"path": "/a"}, {"path": "/a", "mode": "rw"}]}, "twice"),
        ({"paths": [{"path": "/a"}], "workdir": "/ab"}, "'workdir' /ab is not beneath"),
        ({"paths": [{"path": "/a", "mode": "w"}]}, "paths.0.mode: "),
        ({"env": ["LD_PRELOAD"]}, "env.0: LD_PRELOAD steers"),
        ({"env": ["PATH"]}, "env.0: PATH steers"),
        ({"env": ["PYTHONPATH"]}, "env.0: PYTHONPATH steers"),
        ({"env": ["A=B"]}, "env.0: "),
        ({"network": {"host": []}}, "network.host: unknown field"),
        ({"network": {"hosts": [], "ports": [0]}}, "network.ports.0: "),
        ({"network": {"cidrs": ["10.0.0.1/8"]}}, "host bits set"),
        ({"network": {"cidrs": ["0.0.0.0/0"]}}, "every address"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(fields)


NO_NAMES = [
    "*",
    "*.",
    "*.org",
    "a.*.org",
    "*a.org",
    "example.org.",
    "example.org:443",
    "https://example.org",
    "a..b",
    "-a.org",
    "a_.org-",
    "2130706433",
    "127.1",
    "0x7f.1",
    "0177.0.0.1",
    "1.2.3.0x4",
    "[::1]",
    "\u00e4.de",
    "exam\u0131ple.org",
    "\uff11\uff12\uff17.1",
]


@pytest.mark.parametrize("host", [*NO_NAMES, "", "a b.org", "a\0.org", "a" * 64 + ".org"])
def test_hosts_that_are_no_plain_names_are_refused(host: str) -> None:
    assert "network.hosts.0: " in refusal({"network": {"hosts": [host]}})


def test_hosts_are_kept_in_lower_case() -> None:
    network = NetworkPolicy(hosts=("*.Example.ORG", "xn--bcher-kva.example"))
    assert network.hosts == ("*.example.org", "xn--bcher-kva.example")


def test_a_policy_is_frozen_hashable_and_survives_json() -> None:
    policy = parse_policy(
        {
            "tools": ["bash"],
            "cpus": 1,
            "min_isolation": "process",
            "rules": [{"action": "ask", "when": {"a.b": {"in": [1, "x", None]}}, "reason": "why"}],
        }
    )
    again = Policy.model_validate_json(policy.model_dump_json(exclude_none=True))
    assert again == policy
    assert hash(again) == hash(policy)
    with pytest.raises(ValueError, match="frozen"):
        policy.cpus = 2.0  # type: ignore[misc]  # the refusal is what is tested


def test_true_and_1_make_different_policies() -> None:
    """Compiled policies are kept by equality, and Python has True equal 1."""

    def policy(value: object) -> Policy:
        rule = {"action": "deny", "reason": "x", "when": {"a": {"eq": value}}}
        return parse_policy({"rules": [rule]})

    assert policy(True) != policy(1)


def test_the_capabilities_are_those_of_the_tools() -> None:
    assert set(CapabilityName.__args__) == set(Capability)  # type: ignore[attr-defined]  # a Literal


def test_problems_are_told_in_one_line_and_not_without_end() -> None:
    message = refusal({f"field_{n}": n for n in range(50)})
    assert "and 45 more" in message
    assert "\n" not in message


def test_explain_is_used_for_other_models_too() -> None:
    with pytest.raises(ValueError, match="mode") as raised:
        PathGrant.model_validate({"path": "/a", "mode": "x"})
    assert explain(raised.value).startswith("mode: ")  # type: ignore[arg-type]  # pydantic's own


GO_ZERO: dict[str, Any] = {
    "AllowedTools": None,
    "AllowedCaps": None,
    "Workdir": "",
    "AllowedPaths": None,
    "EnvWhitelist": None,
    "Network": {"Enabled": False, "AllowedHosts": None},
    "Timeout": 0,
    "MemoryLimit": 0,
    "MaxConcurrent": 0,
}


def test_go_zero_values_mention_nothing_but_no_network() -> None:
    assert parse_policy(GO_ZERO) == Policy(network=NetworkPolicy())


def test_the_go_spelling_says_the_same_in_its_own_units() -> None:
    go = {
        "AllowedTools": ["bash"],
        "AllowedCaps": ["exec", "file"],
        "Workdir": "/workspace",
        "AllowedPaths": ["/workspace"],
        "EnvWhitelist": [],
        "Network": {"Enabled": True, "AllowedHosts": ["example.org"]},
        "Timeout": 1_999_999,
        "MemoryLimit": 64 * 1024 * 1024 + 5,
        "MaxConcurrent": 4,
    }
    ours = {
        "tools": ["bash"],
        "capabilities": ["exec", "file"],
        "workdir": "/workspace",
        "paths": [{"path": "/workspace", "mode": "rw"}],
        "env": [],
        "network": {"hosts": ["example.org"]},
        "timeout_ms": 1,
        "mem_mb": 64,
        "max_concurrent": 4,
    }
    assert parse_policy(go) == parse_policy(ours)


def test_a_go_network_that_is_enabled_without_hosts_inherits() -> None:
    go = {"Network": {"Enabled": True, "AllowedHosts": None}}
    assert parse_policy(go).network is None


def test_an_empty_go_list_is_nothing_rather_than_unsaid() -> None:
    assert parse_policy({"AllowedTools": []}).tools == ()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"AllowedTools": ["a"], "tools": ["a"]}, "say the same thing"),
        ({"Timeout": 0, "timeout_ms": 5}, "say the same thing"),
        ({"Timeout": "5s"}, "'Timeout'"),
        ({"Timeout": False}, "'Timeout'"),
        ({"MemoryLimit": 1.5}, "'MemoryLimit'"),
        ({"AllowedPaths": "/a"}, "'AllowedPaths'"),
        ({"Network": {"Enabled": True, "Hosts": []}}, "'Network'"),
        ({"Network": {"Enabled": 1}}, "'Network.Enabled'"),
        ({"CPULimit": 1}, "CPULimit: unknown field"),
    ],
)
def test_the_go_spelling_is_checked_as_strictly(fields: dict[str, Any], words: str) -> None:
    assert words in refusal(fields)


def test_the_shipped_default_is_what_is_promised() -> None:
    policy = DEFAULT_POLICY
    assert policy.paths == (PathGrant(path="/workspace", mode="rw"),)
    assert policy.network is not None
    assert policy.network.reaches_nothing
    assert (policy.timeout_ms, policy.mem_mb, policy.cpus, policy.pids) == (60_000, 512, 1.0, 128)
    assert (policy.disk_mb, policy.output_bytes) == (1024, 1024 * 1024)
    assert policy.env == ()


def test_completing_takes_only_what_was_not_mentioned() -> None:
    policy = completed(parse_policy({"mem_mb": 2048, "env": ["LANG"]}), DEFAULT_POLICY)
    assert (policy.mem_mb, policy.env, policy.pids) == (2048, ("LANG",), 128)
    assert policy.tools == ("*",)
    assert completed(LOCAL_POLICY, Policy()) == LOCAL_POLICY


def test_an_operator_waives_a_limit_with_null_and_nothing_else() -> None:
    waived = parse_policy({"mem_mb": None, "cpus": None, "network": None, "tools": None})
    policy = completed(waived, DEFAULT_POLICY)
    assert (policy.mem_mb, policy.cpus) == (None, None)
    assert policy.pids == DEFAULT_POLICY.pids
    assert policy.network == DEFAULT_POLICY.network
    assert policy.tools == DEFAULT_POLICY.tools


def test_completing_allow_rules_does_not_add_every_other_tool() -> None:
    rules = [{"action": "allow", "tools": "calculator", "reason": "harmless"}]
    assert completed(parse_policy({"rules": rules}), DEFAULT_POLICY).tools == ("calculator",)
    denying = [{"action": "deny", "tools": "bash", "reason": "no"}]
    assert completed(parse_policy({"rules": denying}), DEFAULT_POLICY).tools == ("*",)
