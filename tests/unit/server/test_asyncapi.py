"""The published descriptions: complete, sound, and of what the daemon really does."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from doubles.http_door import http_door
from mas_sandbox.server.http.all_routes import build_api
from mas_sandbox.server.http.asyncapi import CHANNELS, described
from mas_sandbox.server.http.problems import FILE_STATUS, STATUS
from published import check, messages_of, schema_of

pytestmark = pytest.mark.anyio
META = Path(__file__).with_name("asyncapi-3.0.0.schema.json")
OWN = {408, 409, 413, 415}
"""What requests are answered before the broker hears of them, or of a sandbox as it is."""


@pytest.fixture
def app() -> FastAPI:
    return build_api()


def routes(app: Any) -> Iterator[tuple[str, str]]:
    """(method, path) of all that the application serves, `WS` of a WebSocket."""
    for route in app.routes:
        if hasattr(route, "path"):
            for method in getattr(route, "methods", None) or ["WS"]:
                yield method, route.path


def test_it_is_an_asyncapi_document_whose_references_lead_somewhere() -> None:
    document = described("127.0.0.1:8080")
    jsonschema_rs.validator_for(json.loads(META.read_text())).validate(document)
    for reference in references(document):
        place: Any = document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, each in value.items():
            if name == "$ref":
                yield each
            else:
                yield from references(each)
    elif isinstance(value, list):
        for each in value:
            yield from references(each)


async def test_every_websocket_and_every_stream_is_described(app: FastAPI) -> None:
    sockets = {path for method, path in routes(app) if method == "WS"}
    assert {each.address for each in CHANNELS.values() if each.protocol == "ws"} == sockets
    streams = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
        if "application/x-ndjson" in operation["responses"]["200"].get("content", {})
    }
    told = {(each.method, each.address) for each in CHANNELS.values() if each.protocol == "http"}
    assert told == streams


async def test_every_other_route_and_every_error_is_in_the_openapi_document(app: FastAPI) -> None:
    document = app.openapi()
    described = {
        (method.upper(), path): operation["responses"]
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    open_to_all = {"/docs", "/openapi.json", "/asyncapi.json"}
    served = {each for each in routes(app) if each[0] not in ("WS", "HEAD")}
    assert {each for each in served if each[1] not in open_to_all} == set(described)
    common = {400, 401, 429, *STATUS.values(), *OWN}
    for (method, path), responses in described.items():
        assert responses["200"]["content"], (method, path)
        if path == "/v1/sandbox/health":
            continue
        wanted = common | set(FILE_STATUS.values()) if "/files" in path else common
        assert wanted <= {int(status) for status in responses}, (method, path)
        for status in wanted:
            schema = responses[str(status)]["content"]["application/json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}, (method, path, status)


def test_anyone_may_read_both_and_the_page_leads_there(tmp_path: Path) -> None:
    with http_door(tmp_path, token="t" * 16) as door:

        def read(path: str) -> str:
            with urllib.request.urlopen(door.url + path, timeout=10) as response:
                text: str = response.read().decode()
                return text

        document = json.loads(read("/asyncapi.json"))
        assert document["servers"]["ws"]["host"] == f"127.0.0.1:{door.port}"
        assert document == described(f"127.0.0.1:{door.port}")
        page = read("/docs")
        assert 'href="/asyncapi.json"' in page
        assert 'href="/openapi.json"' in page


@pytest.mark.parametrize(
    "event",
    [
        {"type": "exit", "exit_code": 0, "signal": None},
        {"type": "exit", "exit_code": "0", "signal": None, "error": None},
        {"type": "gap", "bytes": 1, "more": 1},
    ],
)
def test_an_event_that_is_not_as_published_is_seen(event: dict[str, Any]) -> None:
    with pytest.raises(jsonschema_rs.ValidationError):
        check("startProcess", event)
    with pytest.raises(KeyError):
        check("startProcess", {"type": "unheard of"})


def test_what_clients_may_say_is_described() -> None:
    assert {"StartProcess", "SignalMessage", "KillMessage", "Bytes"} < set(
        messages_of("startProcess")
    )
    signal = jsonschema_rs.Draft202012Validator(schema_of("SignalMessage"))
    assert signal.is_valid({"type": "signal", "signal": "SIGINT"})
    assert not signal.is_valid({"type": "signal", "signal": "INT"})
