"""Both HTTP clients: what they send, and what every answer becomes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable

import httpx2
import pytest

from doubles.http_daemon import HttpDaemon, problem
from mas_sandbox.api.models import Trace
from mas_sandbox.policy.model import Policy
from mas_sandbox.sdk import (
    AsyncClient,
    BadReply,
    CallError,
    CallTimeout,
    Client,
    DaemonLost,
    DaemonUnavailable,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PolicyDenied,
    Unauthenticated,
)
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MAS_SANDBOX_URL", raising=False)
    monkeypatch.delenv("MAS_SANDBOX_TOKEN", raising=False)


def client(daemon: HttpDaemon, **options: object) -> Client:
    return Client(transport=daemon.transport(), **options)  # type: ignore[arg-type]  # by test


def answering(response: Callable[[httpx2.Request], httpx2.Response]) -> Client:
    return Client(transport=httpx2.MockTransport(response))


def test_a_call_carries_everything_it_was_given() -> None:
    daemon = HttpDaemon(token="secret")
    with client(daemon, token="secret") as sdk:
        result = sdk.execute(
            "echo",
            {"n": 1},
            sandbox_id="sb_1",
            policy=Policy(timeout_ms=100),
            tool_call_id="c1",
            trace=Trace(run_id="r"),
        )
    assert daemon.bodies() == [
        {
            "tool": {"name": "echo", "args": {"n": 1}},
            "sandbox_id": "sb_1",
            "policy": {"timeout_ms": 100},
            "tool_call_id": "c1",
            "trace": {"run_id": "r"},
        }
    ]
    assert daemon.requests[0].headers["content-type"] == "application/json"
    assert (result.ok, result.result, result.tool_call_id) == (True, {"n": 1}, "c1")


def test_a_policy_keeps_its_rules_and_the_difference_between_nothing_and_unmentioned() -> None:
    rule = {"action": "deny", "when": {"path": {"eq": None}}, "reason": "no"}
    daemon = HttpDaemon()
    client(daemon).execute("echo", policy=Policy.model_validate({"env": [], "rules": [rule]}))
    assert daemon.bodies()[0]["policy"] == {"env": [], "rules": [rule]}


def test_url_and_token_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAS_SANDBOX_URL", "http://sandbox.test:9000/")
    monkeypatch.setenv("MAS_SANDBOX_TOKEN", "from-env")
    daemon = HttpDaemon(token="from-env")
    client(daemon).health()
    assert str(daemon.requests[0].url) == "http://sandbox.test:9000/v1/sandbox/health"


def test_the_runtimes_are_told_with_what_they_enforce() -> None:
    (runtime,) = client(HttpDaemon()).runtimes()
    assert (runtime.name, runtime.default) == ("jail", True)
    assert runtime.controls[Control.MEMORY].status == "unavailable"


def test_a_failed_call_is_a_result_until_it_is_raised() -> None:
    result = client(HttpDaemon()).execute("fail", {"code": "timeout"})
    assert not result.ok
    with pytest.raises(CallTimeout, match="scripted") as caught:
        result.raise_for_error()
    assert caught.value.result is result


@pytest.mark.parametrize("code", ErrorCode)
def test_every_code_of_a_reply_raises_its_class(code: ErrorCode) -> None:
    result = client(HttpDaemon()).execute("fail", {"code": str(code)})
    with pytest.raises(CallError) as caught:
        result.raise_for_error()
    assert type(caught.value).error_code is code


def test_an_unknown_token_is_its_own_error() -> None:
    with pytest.raises(Unauthenticated, match="MAS_SANDBOX_TOKEN") as caught:
        client(HttpDaemon(token="secret")).tools()
    assert isinstance(caught.value, PolicyDenied)


def test_a_full_queue_is_retried_as_often_as_asked() -> None:
    daemon = HttpDaemon(busy=2)
    assert client(daemon, retries=2).execute("echo").ok
    assert len(daemon.requests) == 3
    daemon.busy = 2
    with pytest.raises(Overloaded) as caught:
        client(daemon, retries=1).execute("echo")
    assert caught.value.retry_after == 0
    assert daemon.busy == 0


def test_nothing_is_retried_by_default_nor_anything_but_overload() -> None:
    daemon = HttpDaemon(busy=1)
    with pytest.raises(Overloaded):
        client(daemon).execute("echo")
    seen: list[httpx2.Request] = []

    def broken(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        raise httpx2.ReadError("reset")

    with pytest.raises(DaemonLost, match="may or may not have run"):
        Client(transport=httpx2.MockTransport(broken), retries=3).execute("echo")
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "invalid_request", InvalidRequest),
        (413, "invalid_request", InvalidRequest),
        (403, "policy_denied", PolicyDenied),
        (404, "not_found", NotFound),
        (500, "internal", InternalError),
        (503, "internal", InternalError),
    ],
)
def test_a_problem_becomes_the_class_of_its_code(
    status: int, code: str, kind: type[CallError]
) -> None:
    with pytest.raises(kind, match="worded"):
        answering(lambda _: problem(status, code, "worded")).execute("echo")


@pytest.mark.parametrize(
    "response",
    [
        httpx2.Response(200, content=b"<html>hello</html>"),
        httpx2.Response(200, json={"status": "ok"}),
        httpx2.Response(502, content=b"Bad Gateway"),
        httpx2.Response(307, headers={"location": "http://elsewhere.test/"}),
        httpx2.Response(400, json={"error": {"code": "no_such_code", "message": ""}}),
    ],
)
def test_what_does_not_speak_the_api_is_a_bad_reply(response: httpx2.Response) -> None:
    with pytest.raises(BadReply):
        answering(lambda _: response).execute("echo")


def test_no_daemon_says_where_it_looked_and_what_to_do() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            Client(url) as sdk,
            pytest.raises(DaemonUnavailable, match=r"mas-sandboxd -listen") as caught,
        ):
            sdk.execute("echo")
    assert url in caught.value.message
    assert isinstance(caught.value.__cause__, httpx2.HTTPError)


def test_a_daemon_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with Client(url, timeout=0.2) as sdk, pytest.raises(DaemonLost, match="may still run"):
            sdk.execute("echo")


@pytest.mark.parametrize("url", ["localhost:8080", ":8080", "ftp://x"])
def test_an_address_that_is_none_is_refused_with_an_example(url: str) -> None:
    with pytest.raises(InvalidRequest, match="address of a daemon"):
        Client(url).health()


def test_arguments_that_are_not_json_never_leave() -> None:
    daemon = HttpDaemon()
    for args in ({"n": float("nan")}, {"n": object()}, {"text": "x" * (1024 * 1024)}):
        with pytest.raises(InvalidRequest):
            client(daemon).execute("echo", args)
    assert daemon.requests == []


def test_a_token_that_would_break_the_header_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="token"):
        Client(token="a\r\nx-evil: 1")


def test_proxies_of_the_environment_never_see_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        with (
            Client("http://127.0.0.1:9", timeout=1) as sdk,
            pytest.raises(DaemonUnavailable),
        ):
            sdk.execute("echo")
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_a_sandbox_lives_for_its_block() -> None:
    daemon = HttpDaemon()
    with client(daemon).sandbox(policy={"mem_mb": 64}, idle_timeout_s=5) as sandbox:
        assert daemon.sandboxes == {"sb_1"}
        sandbox.execute("echo")
        assert daemon.bodies()[-1]["sandbox_id"] == "sb_1"
    assert daemon.sandboxes == set()
    assert daemon.bodies()[0] == {"policy": {"mem_mb": 64}, "idle_timeout_s": 5}


def test_a_sandbox_is_destroyed_when_its_block_fails_and_may_be_gone_before() -> None:
    daemon = HttpDaemon()
    with pytest.raises(KeyError), client(daemon).sandbox():
        raise KeyError
    assert daemon.sandboxes == set()
    with client(daemon).sandbox():
        daemon.sandboxes.clear()


def test_the_async_client_does_the_same() -> None:
    async def scenario() -> None:
        daemon = HttpDaemon(token="t", busy=1)
        async with AsyncClient(token="t", transport=daemon.transport(), retries=1) as sdk:
            result = await sdk.execute("echo", {"n": 1}, tool_call_id="c1")
            assert (result.result, result.tool_call_id) == ({"n": 1}, "c1")
            assert [tool.name for tool in await sdk.tools()] == ["echo"]
            assert (await sdk.health()).runtime == "jail"
            (runtime,) = await sdk.runtimes()
            assert runtime.controls[Control.MEMORY].mend == "delegate"
            async with sdk.sandbox() as sandbox:
                assert (await sandbox.execute("echo")).ok
                assert json.loads(daemon.requests[-1].content)["sandbox_id"] == "sb_1"
            assert daemon.sandboxes == set()
            with pytest.raises(NotFound):
                await sdk.destroy("sb_2")
        async with AsyncClient("http://127.0.0.1:9") as sdk:
            with pytest.raises(DaemonUnavailable):
                await sdk.health()

    asyncio.run(scenario())
