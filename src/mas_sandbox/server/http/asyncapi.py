"""What is said over WebSockets and in event streams, as an AsyncAPI document.

AsyncAPI 3.0.0, https://www.asyncapi.com/docs/reference/specification/v3.0.0; made from the
models that the routes themselves parse and that clients are told to expect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, get_args

from pydantic import BaseModel, RootModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from mas_sandbox import __version__
from mas_sandbox.api.code import CodeEvent, InterruptMessage, RunCode
from mas_sandbox.api.live import FileEvent, ProcessEvent, ProcessMessage, StartProcess

from .streaming import NDJSON, SSE

_SANDBOX = "/v1/sandboxes/{sandbox_id}"
_PARAMETERS = {
    "sandbox_id": "A named sandbox of the caller's.",
    "process": "A process's pid or its tag.",
    "port": "A port that something in the sandbox listens on.",
}
_OFFSET = {"type": "integer", "minimum": 0, "default": 0}
_ON_DISCONNECT = {"enum": ["detach", "cancel"], "default": "detach"}
_ATTACH = {"from": _OFFSET, "on_disconnect": _ON_DISCONNECT}
_WATCH = {
    "path": {"type": "string", "description": "The directory; it must be given."},
    "recursive": {"type": "boolean", "default": False},
}
_BYTES = "Bytes"
"""The message that is any bytes at all."""


@dataclass(frozen=True)
class Channel:
    """`told`: what the daemon sends; `taken`: what it takes; None for bytes. `method`: of the
    request whose answer is a stream of events, `GET` of a WebSocket's handshake."""

    address: str
    title: str
    told: type[BaseModel] | None
    taken: Sequence[type[BaseModel] | None] = ()
    protocol: Literal["ws", "http"] = "ws"
    method: str = "GET"
    query: Mapping[str, Any] = field(default_factory=dict)


CHANNELS = {
    "startProcess": Channel(
        f"{_SANDBOX}/processes/ws",
        "Start a process, with the first message, and converse with it.",
        ProcessEvent,
        (StartProcess, ProcessMessage, None),
    ),
    "attachToProcess": Channel(
        f"{_SANDBOX}/processes/{{process}}/ws",
        "Attach to a process: its output so far, then what it writes.",
        ProcessEvent,
        (ProcessMessage, None),
        query=_ATTACH,
    ),
    "watchFiles": Channel(
        f"{_SANDBOX}/files/watch/ws",
        "What happens to the files of a directory.",
        FileEvent,
        query=_WATCH,
    ),
    "runCode": Channel(
        f"{_SANDBOX}/code/run/ws",
        "Run code, which is the first message, in a context.",
        CodeEvent,
        (RunCode, InterruptMessage),
    ),
    "tunnel": Channel(
        f"{_SANDBOX}/tunnels/{{port}}",
        "One TCP connection to a port; an empty message is the end of a direction.",
        None,
        (None,),
    ),
    "startProcessEvents": Channel(
        f"{_SANDBOX}/processes",
        "Start a process; all its events.",
        ProcessEvent,
        protocol="http",
        method="POST",
    ),
    "processEvents": Channel(
        f"{_SANDBOX}/processes/{{process}}/events",
        "A process's events from an offset of its output on.",
        ProcessEvent,
        protocol="http",
        query=_ATTACH,
    ),
    "fileEvents": Channel(
        f"{_SANDBOX}/files/watch",
        "What happens to the files of a directory.",
        FileEvent,
        protocol="http",
        query=_WATCH,
    ),
    "runCodeEvents": Channel(
        f"{_SANDBOX}/code/run",
        "Run code; all its events.",
        CodeEvent,
        protocol="http",
        method="POST",
    ),
}


def described(host: str) -> dict[str, Any]:
    """The document of a daemon that is reached as `host`."""
    security = [{"$ref": "#/components/securitySchemes/bearer"}]
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "mas-sandbox",
            "version": __version__,
            "description": "WebSockets and event streams. An event is the same JSON object over "
            f"a WebSocket, where it is a message, as {NDJSON}, where it is a line, and as {SSE}, "
            "where it is the data. The rest of the interface is in /openapi.json.",
        },
        "defaultContentType": "application/json",
        "servers": {
            protocol: {"host": host, "protocol": protocol, "security": security}
            for protocol in ("ws", "http")
        },
        **_rest(),
    }


@cache
def _rest() -> dict[str, Any]:
    payloads, schemas = _schemas()
    messages = {name: _message(name, payload, schemas) for name, payload in payloads.items()}
    return {
        "channels": {name: _channel(channel) for name, channel in CHANNELS.items()},
        "operations": {
            f"{name}.{action}": _operation(name, action, models)
            for name, channel in CHANNELS.items()
            for action, models in (("send", (channel.told,)), ("receive", channel.taken))
            if models
        },
        "components": {
            "messages": messages | {_BYTES: _bytes()},
            "schemas": schemas,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    names = _names((channel.told, *channel.taken))
    return {
        "address": channel.address,
        "title": channel.title,
        "servers": [{"$ref": f"#/servers/{channel.protocol}"}],
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "parameters": {
            name: {"description": _PARAMETERS[name]}
            for name in re.findall(r"{(\w+)}", channel.address)
        },
        "bindings": {"ws": _request(channel)} if channel.protocol == "ws" else {},
    }


def _operation(name: str, action: str, models: Sequence[type[BaseModel] | None]) -> dict[str, Any]:
    channel = CHANNELS[name]
    messages = [{"$ref": f"#/channels/{name}/messages/{each}"} for each in _names(models)]
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{name}"},
        "messages": messages,
        "bindings": {"http": _request(channel)} if channel.protocol == "http" else {},
    }


def _request(channel: Channel) -> dict[str, Any]:
    query = {"query": {"type": "object", "properties": dict(channel.query)}}
    return {"method": channel.method} | (query if channel.query else {})


def _names(models: Sequence[type[BaseModel] | None]) -> list[str]:
    return [
        name
        for model in models
        for name in ([_BYTES] if model is None else [each.__name__ for each in _members(model)])
    ]


def _members(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models that one is a choice of; itself where it is none."""
    if issubclass(model, RootModel):
        yield from get_args(model.model_fields["root"].annotation)
    else:
        yield model


def _schemas() -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Payload by the name of the message, and the schemas that they refer to."""
    wanted: dict[type[BaseModel], JsonSchemaMode] = {
        member: "validation"
        for channel in CHANNELS.values()
        for model in (channel.told, *channel.taken)
        if model is not None
        for member in _members(model)
    }
    found, schemas = models_json_schema(
        list(wanted.items()), ref_template="#/components/schemas/{model}"
    )
    return {model.__name__: payload for (model, _), payload in found.items()}, schemas["$defs"]


def _message(name: str, payload: dict[str, Any], schemas: Mapping[str, Any]) -> dict[str, Any]:
    schema = schemas[name]
    kind = schema["properties"].get("type", {}).get("const", name)
    return {"name": kind, "title": name, "summary": schema["description"], "payload": payload}


def _bytes() -> dict[str, Any]:
    return {
        "name": _BYTES,
        "title": "A binary message",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
    }
