"""What the daemon publishes of its events, held against the events that it sends."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema_rs

from mas_sandbox.server.http.asyncapi import described


def schema_of(name: str) -> dict[str, Any]:
    """The payload of a message, with all that it refers to."""
    components = described("daemon.example")["components"]
    return components["messages"][name]["payload"] | {"components": components}


def messages_of(channel: str) -> list[str]:
    """The names of the messages of a channel."""
    return list(described("daemon.example")["channels"][channel]["messages"])


@cache
def _told(channel: str) -> dict[str, jsonschema_rs.Draft202012Validator]:
    """By the `type` of the event, the schemas of what the daemon sends on a channel."""
    document = described("daemon.example")
    sent = document["operations"][f"{channel}.send"]["messages"]
    found = {}
    for reference in sent:
        name = reference["$ref"].rsplit("/", 1)[1]
        kinds = document["components"]["schemas"][name]["properties"]["type"]
        for kind in kinds.get("enum", [kinds.get("const")]):
            found[kind] = jsonschema_rs.Draft202012Validator(schema_of(name))
    return found


def check(channel: str, event: dict[str, Any]) -> None:
    """Raises what is wrong with an event."""
    _told(channel)[event["type"]].validate(event)
