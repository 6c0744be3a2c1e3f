"""The OpenAPI document as one readable page that works offline."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
code, pre { font-family: ui-monospace, monospace; font-size: 14px }
pre { background: #f4f6f8; padding: .75rem; overflow-x: auto; border-radius: 6px }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #d8dee4 }
h2 b { background: #0b6bcb; color: #fff; padding: .1rem .5rem; border-radius: 4px; font-size: 14px }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #e6eaee;
  vertical-align: top }
@media (prefers-color-scheme: dark) {
  body { color: #e6edf3; background: #0d1117 } pre { background: #161b22 }
  td, th, h2 { border-color: #30363d } a { color: #58a6ff } }
"""


def page(document: Mapping[str, Any]) -> str:
    """The whole page; every text in it is escaped."""
    info = document["info"]
    return "\n".join(
        [
            "<!doctype html><html lang=en><meta charset=utf-8>",
            f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style>",
            f"<h1>{escape(info['title'])} <small>{escape(info['version'])}</small></h1>",
            f"<p>{escape(info.get('summary', ''))} Machine-readable: ",
            '<a href="/openapi.json">/openapi.json</a>, of WebSockets and event streams ',
            '<a href="/asyncapi.json">/asyncapi.json</a></p>',
            *_operations(document["paths"]),
            "<h2>Schemas</h2>",
            *_schemas(document["components"]["schemas"]),
            "</html>",
        ]
    )


def _operations(paths: Mapping[str, Any]) -> Iterator[str]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield f"<h2><b>{escape(method.upper())}</b> <code>{escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body:
                yield f"<p>Body: {_type(body['schema'])}</p>"
            yield "<table><tr><th>Status<th>Body<th>When</tr>"
            for status, response in operation["responses"].items():
                content = response.get("content", {}).get("application/json", {})
                yield (
                    f"<tr><td>{escape(status)}<td>{_type(content.get('schema', {}))}"
                    f"<td>{escape(response.get('description', ''))}</tr>"
                )
            yield "</table>"


def _schemas(schemas: Mapping[str, Any]) -> Iterator[str]:
    for name, schema in sorted(schemas.items()):
        yield f'<h3 id="{escape(name)}">{escape(name)}</h3>'
        yield f"<p>{escape(schema.get('description', ''))}</p>"
        if "properties" not in schema:
            yield f"<pre>{escape(json.dumps(schema.get('enum', schema), indent=1))}</pre>"
            continue
        required = set(schema.get("required", ()))
        yield "<table><tr><th>Field<th>Type<th>Default<th>About</tr>"
        for field, each in schema["properties"].items():
            default = "required" if field in required else json.dumps(each.get("default"))
            yield (
                f"<tr><td><code>{escape(field)}</code><td>{_type(each)}"
                f"<td>{escape(default)}<td>{escape(each.get('description', ''))}</tr>"
            )
        yield "</table>"


def _type(schema: Mapping[str, Any]) -> str:
    """A schema in a few words, linked where it has a name."""
    if reference := schema.get("$ref"):
        name = escape(reference.rsplit("/", 1)[-1])
        return f'<a href="#{name}">{name}</a>'
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_type(each) for each in schema[key])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    words = escape(str(schema.get("type", "anything" if schema else "")))
    if "enum" in schema:
        words = " | ".join(escape(json.dumps(each)) for each in schema["enum"])
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in _BOUNDS.items()
        if key in schema and not isinstance(schema[key], dict)
    ]
    return words + (f" <small>({escape(', '.join(bounds))})</small>" if bounds else "")


_BOUNDS = {
    "minimum": "≥",
    "maximum": "≤",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "pattern": "matches",
}
