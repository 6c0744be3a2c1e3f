"""What comes in by HTTP beside the bodies that OpenAPI describes."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import strategies as st
from pydantic import BaseModel

from fuzz.engine import JSON, fuzz, inputs, texts
from mas_sandbox.api.code import InterruptMessage, RunCode
from mas_sandbox.api.live import ProcessMessage, StartProcess
from mas_sandbox.policy.model import Policy
from mas_sandbox.server.calls import Caller
from mas_sandbox.server.http.ranges import Unsatisfiable, part
from mas_sandbox.server.http.sockets import parsed
from mas_sandbox.server.listen import HostNames
from mas_sandbox.server.live.signing import Signer
from mas_sandbox.server.registry.record import parse_cursor
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

CALLER = Caller("ann", Policy())
BYTE = st.integers(0, 25)


def changed(text: str, edits: list[tuple[int, str]]) -> str:
    for at, put in edits:
        at %= len(text) + 1
        text = text[:at] + put + text[at + (put != "") :]
    return text


EDITS = st.lists(
    st.tuples(st.integers(0, 200), st.text("0123456789abcdef.%+ \u00b2", max_size=2)), max_size=3
)


@fuzz(150, edits=EDITS, front=st.sampled_from(["", "0", "00", "+", " ", "-0"]), junk=texts("token"))
def test_no_other_token_opens_a_port(edits: list[tuple[int, str]], front: str, junk: str) -> None:
    signer = Signer()
    token, _ = signer.share(CALLER, "sb_1", 8080, 60)
    assert signer.holder(token, "sb_1", 8080) is CALLER
    for other in (front + changed(token, edits), junk, token + junk):
        assert other == token or signer.holder(other, "sb_1", 8080) is None, other
    assert signer.holder(token, "sb_1", 8081) is None
    assert signer.holder(token, "sb_2", 8080) is None


@fuzz(
    150,
    edits=EDITS,
    path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    junk=texts("token"),
)
def test_a_signed_url_is_good_for_one_file_and_method(
    edits: list[tuple[int, str]], path: str, junk: str
) -> None:
    signer = Signer()
    url, _ = signer.sign(CALLER, "GET", "sb_1", path, 60)
    route, query = urlsplit(url).path, urlsplit(url).query
    assert signer.caller("GET", route, query) is CALLER
    assert signer.caller("PUT", route, query) is None
    assert signer.caller("GET", route.replace("sb_1", "sb_2"), query) is None
    assert signer.caller("GET", route, junk) is None
    other = changed(query, edits)
    if signer.caller("GET", route, other) is not None:
        assert parse_qs(other, keep_blank_values=True) == parse_qs(query, keep_blank_values=True)


def plainly(first: str, last: str, size: int) -> tuple[int, int] | None:
    """RFC 9110, section 14.1.2, in the words of a list."""
    whole = list(range(size))
    asked = (
        whole[max(0, size - int(last)) :]
        if not first
        else whole[int(first) : int(last) + 1 if last else None]
    )
    return (asked[0], len(asked)) if asked else None


@fuzz(150, first=st.none() | BYTE, last=st.none() | BYTE, size=BYTE)
def test_a_range_is_the_part_that_it_says(first: int | None, last: int | None, size: int) -> None:
    spelt = ["" if each is None else str(each) for each in (first, last)]
    try:
        found = part(f"bytes={spelt[0]}-{spelt[1]}", size)
    except Unsatisfiable:
        assert plainly(*spelt, size) is None
        return
    if spelt == ["", ""] or (first is not None and last is not None and last < first):
        assert found is None
    elif first is None:
        assert found == plainly(*spelt, size)
    else:
        assert found == plainly(*spelt, size)


@fuzz(100, header=texts("range"), size=st.integers(0, 2**63))
def test_any_range_header_stays_in_the_file(header: str, size: int) -> None:
    try:
        found = part(header, size)
    except Unsatisfiable:
        return
    assert found is None or (0 <= found[0] < size and 0 < found[1] <= size - found[0])


MODELS: dict[str, type[BaseModel]] = {
    "process-message": ProcessMessage, "start-process": StartProcess, "run-code": RunCode, "interrupt": InterruptMessage,
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@fuzz(60, data=st.data())
def test_a_message_over_a_websocket_is_refused_or_comes_back(
    name: str, data: st.DataObject
) -> None:
    said: str | bytes = data.draw(
        inputs("websocket") | texts("websocket") | JSON.map(strict_json.dumps)
    )
    _refused_or_comes_back(said, MODELS[name])


@fuzz(
    150,
    kind=st.sampled_from(["stdin", "eof", "signal", "resize", "kill", "interrupt"]),
    value=JSON,
    field=st.sampled_from(["data", "signal", "rows", "cols", "extra"]),
)
def test_a_message_with_any_value_is_refused_or_comes_back(
    kind: str, value: Any, field: str
) -> None:
    _refused_or_comes_back(strict_json.dumps({"type": kind, field: value}), ProcessMessage)


def _refused_or_comes_back(said: str | bytes, model: type[BaseModel]) -> None:
    try:
        message = parsed(said, model)
    except SandboxError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
        assert len(error.message) < 2000
        return
    assert parsed(message.model_dump_json(), model) == message


@fuzz(150, text=texts("token"))
def test_a_cursor_is_one_of_ours_or_refused(text: str) -> None:
    try:
        created_ms, sandbox_id = parse_cursor(text)
    except SandboxError as error:
        assert error.code is ErrorCode.INVALID_REQUEST
        return
    assert 0 <= created_ms < 2**63
    sandbox_id.encode()


@fuzz(150, header=texts("host"), port=st.integers(1, 65535))
def test_a_host_header_names_a_port_or_the_daemon_and_never_both(header: str, port: int) -> None:
    names = HostNames(("allowed.example",), "ports.test")
    assert not (names.port_of(header) and names.accepts(header, "127.0.0.1"))
    sandbox = "sb_" + "0123456789abcdef" * 2
    name = names.name_of(sandbox, port, header)
    assert name is not None
    assert names.port_of(name) == (sandbox, port)
