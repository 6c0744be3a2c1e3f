"""Tokens to principals."""

from __future__ import annotations

from pathlib import Path

import pytest

from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.file import load_policy_file
from mas_sandbox.policy.principals import hash_token
from mas_sandbox.server.auth import Authenticator

TOKEN = "t" * 32


@pytest.fixture
def both(tmp_path: Path) -> Authenticator:
    """The daemon's own token beside a policy file with one principal."""
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\npolicies: {small: {tools: [calculator], mem_mb: 64}}\n"
        f"principals: [{{name: ci, token_sha256: [{hash_token('c' * 32)}], policy: small}}]\n"
    )
    path.chmod(0o600)
    return Authenticator(DEFAULT_POLICY, None, TOKEN, load_policy_file(path))


def test_each_token_is_its_principal(both: Authenticator) -> None:
    own, named = both.authenticate(f"Bearer {TOKEN}"), both.authenticate("bearer " + "c" * 32)
    assert own is not None
    assert named is not None
    assert (own.name, own.policy) == ("default", None)
    assert named.name == "ci"


def test_what_a_principals_policy_never_mentions_is_as_shipped(both: Authenticator) -> None:
    named = both.authenticate("Bearer " + "c" * 32)
    assert named is not None
    assert named.policy is not None
    assert named.policy.mem_mb == 64
    assert named.policy.timeout_ms == DEFAULT_POLICY.timeout_ms
    assert named.policy.granted_tools == ("calculator",)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        "Bearer t\u00e9",
        "Bearer " + "t" * 5000,
        f"Bearer {hash_token(TOKEN)}",
    ],
)
def test_anything_else_is_nobody(both: Authenticator, header: str | None) -> None:
    assert both.authenticate(header) is None


def test_a_file_without_the_daemons_own_token_does_not_open_it(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "version: 1\npolicies: {small: {tools: [calculator]}}\n"
        f"principals: [{{name: ci, token_sha256: [{hash_token('c' * 32)}], policy: small}}]\n"
    )
    path.chmod(0o600)
    made = Authenticator(DEFAULT_POLICY, None, None, load_policy_file(path))
    assert made.required
    assert made.authenticate(None) is None
    assert made.authenticate("Bearer x") is None


def test_with_neither_everyone_is_local() -> None:
    made = Authenticator(DEFAULT_POLICY)
    assert not made.required
    caller = made.authenticate("Bearer whatever")
    assert caller is not None
    assert caller.name == "local"
