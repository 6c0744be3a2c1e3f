"""YAML less its surprises: plain data, each key once, every value where it is written.

Refused: duplicate keys, aliases and merge keys (a small file can unfold into
gigabytes), tags, dates, `yes`/`no`/`on`/`off`, and numbers in any base or form but
decimal. Imports PyYAML: import this module where a file is read, not before.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

MAX_DEPTH = 32
_INTEGER = re.compile(r"-?(0|[1-9][0-9_]*)")
_TAG = "tag:yaml.org,2002:"
_BOOLEANS = {"true": True, "false": False}


class _Composer(yaml.SafeLoader):
    """Builds the node tree, and stops at the first alias or at unreasonable depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs leave it bare
            raise ValueError(f"line {_line(event)}: aliases are refused; write it out")
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def load(data: bytes, lines: dict[tuple[str | int, ...], int]) -> Any:
    """One YAML document as plain data; fills `lines` with where each value is, from 1.

    Raises ValueError with the line and what to do about it.
    """
    try:
        loader = _Composer(data.decode("utf-8"))
        node = loader.get_single_node()
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    return None if node is None else _value(node, (), lines)


def _line(marked: Any) -> int:
    return int(marked.start_mark.line) + 1


def _value(
    node: yaml.Node, location: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> Any:
    lines.setdefault(location, _line(node))
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, location, lines)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(item, (*location, n), lines) for n, item in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node)
    raise _bad_tag(node)


def _bad_tag(node: yaml.Node) -> ValueError:
    return ValueError(f"line {_line(node)}: the tag {node.tag} is refused; write plain data")


def _mapping(
    node: yaml.MappingNode,
    location: tuple[str | int, ...],
    lines: dict[tuple[str | int, ...], int],
) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = _line(key_node)
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != f"{_TAG}str":
            raise ValueError(f"line {line}: a key is text; quote it")
        key = key_node.value
        if key in mapping:
            raise ValueError(f"line {line}: {key!r} is there twice; keep one")
        lines[*location, key] = line
        mapping[key] = _value(value_node, (*location, key), lines)
    return mapping


def _scalar(node: yaml.ScalarNode) -> str | int | float | bool | None:
    text, kind = node.value, node.tag.removeprefix(_TAG)
    if kind == "str":
        return str(text)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    if kind == "int" and len(text) < 32 and _INTEGER.fullmatch(text):
        return int(text.replace("_", ""))
    if kind == "float" and ":" not in text and math.isfinite(value := _float(text)):
        return value
    if kind not in ("bool", "int", "float", "timestamp"):
        raise _bad_tag(node)
    raise ValueError(
        f"line {_line(node)}: {text[:40]!r} could be read as something else; quote it if it is "
        "text, else write it as a decimal number, true, false or null"
    )


def _float(text: str) -> float:
    try:
        return float(text.replace("_", ""))
    except ValueError:
        return math.nan
