"""A policy file is trusted only when nobody else could have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.policy.file import PolicyFile, check_owner, load_policy_file
from mas_sandbox.policy.model import Policy
from mas_sandbox.policy.principals import Principal, Principals, hash_token
from mas_sandbox.wire.errors import ErrorCode, SandboxError

GOOD = f"""\
version: 1
default: reader
policies:
  reader:
    tools: [read_file, grep]
    timeout_ms: 30_000
    cpus: 0.5
  coder:
    tools: ["*"]
    rules:
      - name: no-rm
        action: deny
        tools: bash
        when: {{command: {{glob: "*rm -rf*"}}}}
        reason: deletes too much at once
principals:
  - name: alice
    token_sha256: ["{hash_token("first")}", "{hash_token("second")}"]
    policy: coder
  - name: bob
    token_sha256: ["{hash_token("third")}"]
    policy: reader
"""


def load(directory: Path, text: str | bytes, name: str = "policy.yaml") -> PolicyFile:
    path = directory / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o600)
    return load_policy_file(path)


def refusal(directory: Path, text: str | bytes, name: str = "policy.yaml") -> str:
    with pytest.raises(SandboxError) as refused:
        load(directory, text, name)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert str(directory / name) in refused.value.message
    return refused.value.message


def test_a_file_binds_tokens_to_principals_and_policies(tmp_path: Path) -> None:
    file = load(tmp_path, GOOD)
    alice = file.principals.authenticate("second")
    assert alice is not None
    assert (alice.name, alice.policy) == ("alice", file.policies["coder"])
    bob = file.principals.authenticate("third")
    assert bob is not None
    assert bob.policy.timeout_ms == 30_000
    assert bob.policy.cpus == 0.5
    assert file.default == file.policies["reader"]
    assert len(file.principals) == 2


@pytest.mark.parametrize("token", ["", "fourth", "first ", "firs", "\ud800", hash_token("first")])
def test_another_token_is_nobody(tmp_path: Path, token: str) -> None:
    assert load(tmp_path, GOOD).principals.authenticate(token) is None


def test_every_entry_is_compared_wherever_the_match_is() -> None:
    """No early exit: the last of two equal entries is the one that is found."""
    entries = [(hash_token("t"), Principal(name, Policy())) for name in ("first", "last")]
    found = Principals(entries).authenticate("t")
    assert found is not None
    assert found.name == "last"


def test_json_says_the_same(tmp_path: Path) -> None:
    document: dict[str, Any] = {
        "version": 1,
        "policies": {"p": {"tools": ["bash"], "timeout_ms": 5}},
        "principals": [{"name": "a", "token_sha256": [hash_token("t")], "policy": "p"}],
    }
    text = json.dumps(document, indent="\t")
    file = load(tmp_path, text, "policy.json")
    assert file.policies["p"].timeout_ms == 5
    assert file.principals.authenticate("t") is not None
    assert file.default is None
    assert "duplicate key" in refusal(tmp_path, '{"version": 1, "version": 1}', "policy.json")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("timeout_ms:", "timeout:", "line 6, policies.reader.timeout: unknown field"),
        ("30_000", "yes", "line 6: 'yes'"),
        ("30_000", "1:30", "line 6: '1:30'"),
        ("30_000", "0x10", "line 6: '0x10'"),
        ("30_000", "2026-01-01", "line 6: '2026-01-01'"),
        ("30_000", "true", "line 6, policies.reader.timeout_ms: "),
        ("cpus: 0.5", "cpus: .nan", "line 7: '.nan'"),
        ("cpus: 0.5", "timeout_ms: 5", "line 7: 'timeout_ms' is there twice"),
        ("  coder:", "  reader:", "'reader' is there twice"),
        ("[read_file, grep]", "&a [read_file, *a]", "line 5: aliases"),
        ("[read_file, grep]", "!!python/name:os.system", "line 5: the tag"),
        ("[read_file, grep]", "!!set {a}", "line 5: the tag"),
        ("cpus: 0.5", "<<: {cpus: 1}", "line 7: a key is text"),
        ("cpus: 0.5", "1: 2", "line 7: a key is text"),
        ("policy: coder", "policy: root", "'alice' names no policy"),
        ("default: reader", "default: root", "'default' names no policy"),
        ("name: bob", "name: alice", "'alice' is there twice"),
        (hash_token("third"), hash_token("first"), "a token of 'bob' is there twice"),
        (hash_token("third"), hash_token(""), "hash of nothing"),
        (hash_token("third"), "third", "line 21, principals.1.token_sha256.0: "),
        ("version: 1", "version: 2", "line 1, version: "),
        ("version: 1", "version: true", "version: "),
        ("glob:", "regex:", "unknown operator 'regex'"),
        ("action: deny", "action: [", "line 1"),
    ],
)
def test_mistakes_are_told_with_line_or_key(tmp_path: Path, old: str, new: str, words: str) -> None:
    assert old in GOOD
    assert words in refusal(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "valid dictionary"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: \x00", "not allowed"),
        (b"[" * 5000, "nested deeper"),
        (b"--- a\n--- b\n", "line 2"),
        (b"# " + b"x" * 300_000, "over 262144 bytes"),
    ],
)
def test_hostile_documents_are_refused(tmp_path: Path, text: bytes, words: str) -> None:
    assert words in refusal(tmp_path, text)


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(GOOD)
    path.chmod(mode)
    with pytest.raises(SandboxError, match="chmod go-w"):
        load_policy_file(path)


def test_a_file_of_someone_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.touch(0o600)
    ours = path.stat()
    check_owner(path, ours)
    check_owner(path, os.stat_result((*ours[:4], 0, *ours[5:])))
    with pytest.raises(SandboxError, match=f"chown {os.geteuid()} "):
        check_owner(path, os.stat_result((*ours[:4], os.geteuid() + 1, *ours[5:])))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for place in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(SandboxError, match="not a regular file"):
            load_policy_file(place)
    with pytest.raises(SandboxError, match="cannot be read: No such file"):
        load_policy_file(tmp_path / "missing")
