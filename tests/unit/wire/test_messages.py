"""Messages: what one end writes the other reads, and nothing else is taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import MEANING, ErrorCode
from mas_sandbox.wire.frames import ProtocolError
from mas_sandbox.wire.messages import (
    GUEST_CODES,
    MAX_MESSAGE_CHARS,
    PROTOCOL,
    Call,
    Hello,
    Result,
    Welcome,
)

Message = Hello | Welcome | Call | Result

EXAMPLES: list[Message] = [
    Hello(PROTOCOL, 7, "3.11.2", ["bash"], ["paths"]),
    Welcome("00ff", 1_700_000_000_000_000_000, "sandbox", {"tools.py": "def f(): ..."}),
    Welcome("00ff", 0, "", {}, {"mem_mb": 64, "pids": 1, "disk_mb": 2**40}),
    Call("bash", {"command": "é"}, timeout_ms=5, env={"A": "b"}, paths=[("/workspace/x", "ro")]),
    Call("bash", {}),
    Call("bash", {}, paths=[]),
    Result(137, "timeout", "ended", 12, 34),
    Result(0),
    Result(1, "tool_failed", "there is no such file", reason="not_found"),
]


def fields_of(message: Message) -> dict[str, Any]:
    return {name: getattr(message, name) for name in message.__slots__}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_is_written_is_read_back(message: Message) -> None:
    assert fields_of(type(message).parse(message.encode())) == fields_of(message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_fields_are_exactly_those_of_the_message(message: Message) -> None:
    fields = fields_of(message)
    for name in fields:
        with pytest.raises(ProtocolError, match="exactly the fields"):
            type(message).parse(strict_json.dumps({k: v for k, v in fields.items() if k != name}))
    with pytest.raises(ProtocolError, match="exactly the fields"):
        type(message).parse(strict_json.dumps(fields | {"extra": 1}))


def test_every_field_refuses_the_wrong_type() -> None:
    for message in EXAMPLES:
        for name in message.__slots__:
            for wrong in (None, 1.5, True, -1, 2**63, [1], {"a": 1} if name != "args" else "x"):
                with pytest.raises(ProtocolError):
                    type(message).parse(strict_json.dumps(fields_of(message) | {name: wrong}))


@pytest.mark.parametrize("payload", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 70])
def test_what_is_no_object_is_no_message(payload: bytes) -> None:
    for kind in (Hello, Welcome, Call, Result):
        with pytest.raises(ProtocolError):
            kind.parse(payload)


@pytest.mark.parametrize(
    "paths",
    [
        "/workspace",
        ["/workspace"],
        [["/workspace"]],
        [["/workspace", "rwx"]],
        [["workspace", "ro"]],
        [["/a", "ro", 1]],
        [[1, "ro"]],
        [{"path": "/a"}],
    ],
)
def test_grants_are_pairs_of_an_absolute_path_and_a_mode(paths: Any) -> None:
    with pytest.raises(ProtocolError, match="paths"):
        Call.parse(strict_json.dumps(fields_of(Call("t", {})) | {"paths": paths}))


@pytest.mark.parametrize(
    "limits", [{"mem_mb": 0}, {"pids": -1}, {"disk_mb": 1.5}, {"pids": True}, {"cpus": 1}, []]
)
def test_limits_are_known_and_at_least_1(limits: Any) -> None:
    fields = fields_of(Welcome("00", 1, "", {}))
    with pytest.raises(ProtocolError):
        Welcome.parse(strict_json.dumps(fields | {"limits": limits}))


def test_a_call_that_fits_no_frame_is_not_encoded() -> None:
    with pytest.raises(ValueError, match="at most"):
        Call("write_file", {"content": "x" * 2**20}).encode()


def test_a_guest_reports_its_own_codes_only() -> None:
    for code in ErrorCode:
        payload = Result(1, code, "text").encode()
        if code in GUEST_CODES:
            assert Result.parse(payload).code == code
        else:
            with pytest.raises(ProtocolError, match="not the guest's"):
                Result.parse(payload)
    with pytest.raises(ProtocolError, match="not the guest's"):
        Result.parse(Result(1, "made_up", "text").encode())
    with pytest.raises(ProtocolError):
        Result.parse(Result(1, "tool_failed", "text", reason="made_up").encode())


def test_a_guests_claims_are_bounded() -> None:
    assert len(Result.parse(Result(1, "tool_failed", "x" * 100_000).encode()).message) == (
        MAX_MESSAGE_CHARS
    )
    with pytest.raises(ProtocolError, match="over 255"):
        Result.parse(Result(256).encode())
    with pytest.raises(ProtocolError, match="1025 entries"):
        Hello.parse(Hello(PROTOCOL, 1, "3", ["t"] * 1025, []).encode())
    assert len(Hello.parse(Hello(PROTOCOL, 1, "3" * 999, [], []).encode()).python) == 64


def test_another_protocol_is_refused() -> None:
    with pytest.raises(ProtocolError, match="protocol 2"):
        Hello.parse(Hello(2, 1, "3", [], []).encode())


def test_every_code_has_its_meaning() -> None:
    assert set(MEANING) == set(ErrorCode)
