"""A signed URL lets its holder do exactly what was signed."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from mas_sandbox.server.calls import Caller
from mas_sandbox.server.live import signing
from mas_sandbox.server.live.signing import Signer

ALICE = Caller("alice")


def signed(signer: Signer, path: str = "/workspace/a b&c") -> tuple[str, str]:
    url, _ = signer.sign(ALICE, "GET", "sb_1", path, 60)
    parts = urlsplit(url)
    return parts.path, parts.query


def test_its_holder_acts_as_its_maker() -> None:
    signer = Signer()
    assert signer.caller("GET", *signed(signer)) is ALICE


def test_it_does_not_tell_who_made_it() -> None:
    assert "alice" not in "".join(signed(Signer()))


@pytest.mark.parametrize(
    ("method", "path", "old", "new"),
    [
        ("PUT", "/v1/sandboxes/sb_1/files", "", ""),
        ("DELETE", "/v1/sandboxes/sb_1/files", "", ""),
        ("GET", "/v1/sandboxes/sb_2/files", "", ""),
        ("GET", "/v1/sandboxes/sb_1/files/archive", "", ""),
        ("GET", "/v1/sandboxes/sb_1/files", "a+b", "a+d"),
        ("GET", "/v1/sandboxes/sb_1/files", "expires=", "expires=9"),
        ("GET", "/v1/sandboxes/sb_1/files", "expires=", "expires=%D9%A1"),
        ("GET", "/v1/sandboxes/sb_1/files", "&signature", "&mode=0777&signature"),
        ("GET", "/v1/sandboxes/sb_1/files", "path=", "path=%2Fetc&path="),
        ("GET", "/v1/sandboxes/sb_1/files", "signature=", "signature=0"),
        ("GET", "/v1/sandboxes/sb_1/files", "signature=", "x="),
        ("GET", "/v1/sandboxes/sb_1/files", "signature=", "signature=%ff"),
    ],
)
def test_anything_else_is_nobodys(method: str, path: str, old: str, new: str) -> None:
    signer = Signer()
    _, query = signed(signer)
    assert old in query
    assert signer.caller(method, path, query.replace(old, new, 1)) is None


def test_it_ends_with_its_time_and_with_its_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    signer = Signer()
    made = signed(signer)
    assert Signer().caller("GET", *made) is None
    now = signing.time.time()
    monkeypatch.setattr(signing.time, "time", lambda: now + 61)
    assert signer.caller("GET", *made) is None
