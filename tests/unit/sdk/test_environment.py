"""The environment alone chooses the executor."""

from __future__ import annotations

import pytest

from mas_sandbox.sdk import (
    AsyncLocalExecutor,
    AsyncSandboxExecutor,
    InvalidRequest,
    LocalExecutor,
    SandboxExecutor,
    async_executor_from_env,
    executor_from_env,
)


@pytest.mark.parametrize(
    ("mode", "url", "sync_kind", "async_kind"),
    [
        (None, None, LocalExecutor, AsyncLocalExecutor),
        ("local", "http://x:1", LocalExecutor, AsyncLocalExecutor),
        (None, "http://x:1", SandboxExecutor, AsyncSandboxExecutor),
        ("http", None, SandboxExecutor, AsyncSandboxExecutor),
    ],
)
def test_mode_and_url_choose(
    mode: str | None,
    url: str | None,
    sync_kind: type,
    async_kind: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("MAS_SANDBOX_MODE", mode), ("MAS_SANDBOX_URL", url)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with executor_from_env() as chosen:
        assert type(chosen) is sync_kind
    assert type(async_executor_from_env()) is async_kind
    if isinstance(chosen, SandboxExecutor):
        assert chosen.client.url == (url or "http://127.0.0.1:8080")


def test_an_unknown_mode_is_refused_with_the_ones_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MAS_SANDBOX_MODE", "docker")
    with pytest.raises(InvalidRequest, match="`local` or `http`"):
        executor_from_env()
