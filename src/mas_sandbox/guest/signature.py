"""A typed, documented function as a tool: JSON Schema out, arguments in, result out.

`schema` and `convert` understand the same annotations: str, int, float, bool, None, Any,
list, dict with str keys, unions, Literal, Enum, dataclasses, TypedDict, and Annotated
whose text is the description. Everything else raises `Unsupported`.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
import typing
from typing import Any

_MAX_NESTING = 20
_SIMPLE = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null"}
_SECTION = re.compile(r"(Args|Arguments|Parameters):\s*$")
_ARGUMENT = re.compile(r"(\w+)(?: *\([^)]*\))?: *(.*)")


class Unsupported(Exception):
    """The function, or the value, cannot be what it is declared as. Worded for a person."""


class Signature:
    """What a function says of itself. Raises Unsupported for one that says too little."""

    def __init__(self, function: types.FunctionType) -> None:
        documentation = inspect.getdoc(function)
        if not documentation:
            raise Unsupported("has no docstring; its first paragraph is the tool's description")
        self._function = function
        self.description, self._descriptions = _read_docstring(documentation)
        try:
            self._hints = typing.get_type_hints(function, include_extras=True)
        except Exception as error:
            raise Unsupported(f"has an annotation that cannot be resolved: {error}") from error
        self._parameters = dict(inspect.signature(function).parameters)
        for name, parameter in self._parameters.items():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise Unsupported(f"parameter {name} cannot be passed by name")
            if name not in self._hints:
                raise Unsupported(f"parameter {name} has no annotation")
        if "return" not in self._hints:
            raise Unsupported("has no return annotation")

    def input_schema(self) -> dict[str, Any]:
        properties = {}
        for name, parameter in self._parameters.items():
            described = _located(name, schema, self._hints[name])
            if name in self._descriptions:
                described["description"] = self._descriptions[name]
            if parameter.default is not parameter.empty:
                default = _located(name, plain, parameter.default)
                if default is not None:
                    described["default"] = default
            properties[name] = described
        return {
            "type": "object",
            "properties": properties,
            "required": [name for name in properties if self._required(name)],
            "additionalProperties": False,
        }

    def arguments(self, args: dict[str, Any]) -> dict[str, Any]:
        """The function's keyword arguments. Raises Unsupported for what does not fit."""
        for name in args:
            if name not in self._parameters:
                known = ", ".join(self._parameters) or "none"
                raise Unsupported(f"unknown argument {name[:80]!r}; the arguments are {known}")
        for name in self._parameters:
            if name not in args and self._required(name):
                raise Unsupported(f"{name} is missing")
        return {
            name: _located(name, convert, self._hints[name], value) for name, value in args.items()
        }

    def _required(self, name: str) -> bool:
        return self._parameters[name].default is inspect.Parameter.empty


def schema(hint: Any, nesting: int = 0) -> dict[str, Any]:
    """JSON Schema (2020-12) of an annotation."""
    if nesting > _MAX_NESTING:
        raise Unsupported("the annotation is nested too deeply, or contains itself")
    inner = nesting + 1
    if hint is Any:
        return {}
    if isinstance(hint, type) and hint in _SIMPLE:
        return {"type": _SIMPLE[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        texts = [text for text in arguments[1:] if isinstance(text, str)]
        return schema(arguments[0], inner) | ({"description": texts[0]} if texts else {})
    if origin is typing.Literal:
        return {"enum": [plain(choice) for choice in arguments]}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [schema(choice, inner) for choice in arguments]}
    if list in (hint, origin):
        return {"type": "array", "items": schema(arguments[0] if arguments else Any, inner)}
    if dict in (hint, origin) and arguments[:1] in ((), (str,)):
        values = schema(arguments[1] if arguments else Any, inner)
        return {"type": "object", "additionalProperties": values}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return {"enum": [plain(member.value) for member in hint]}
    record = _fields(hint)
    if record is not None:
        hints, required = record
        return {
            "type": "object",
            "properties": {name: schema(field, inner) for name, field in hints.items()},
            "required": required,
            "additionalProperties": False,
        }
    raise Unsupported(f"the annotation {_named(hint)} has no JSON Schema")


def convert(hint: Any, value: Any) -> Any:
    """A JSON value as the annotation has it. Raises Unsupported where it does not fit."""
    if hint is Any:
        return value
    if isinstance(hint, type) and hint in _SIMPLE:
        return _simple(hint, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return convert(arguments[0], value)
    if origin is typing.Literal:
        return _one_of({plain(choice): choice for choice in arguments}, value)
    if origin in (typing.Union, types.UnionType):
        return _first_fit(arguments, value)
    if list in (hint, origin):
        items = _simple(list, value)
        return [convert(arguments[0], item) for item in items] if arguments else items
    if dict in (hint, origin):
        members = _simple(dict, value)
        if not arguments:
            return members
        return {name: convert(arguments[1], member) for name, member in members.items()}
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _one_of({member.value: member for member in hint}, value)
    return _record(hint, value)


def plain(value: Any) -> Any:
    """A function's result, or a default, as what JSON has. Raises Unsupported otherwise."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {name: plain(member) for name, member in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    raise Unsupported(f"{_named(type(value))} is nothing that JSON can carry")


def _fields(hint: Any) -> tuple[dict[str, Any], list[str]] | None:
    """Fields and which of them are required, of a dataclass or a TypedDict."""
    if typing.is_typeddict(hint):
        return _keys(hint)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return None
    hints = typing.get_type_hints(hint, include_extras=True)
    fields = [field for field in dataclasses.fields(hint) if field.init]
    required = [
        field.name
        for field in fields
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    return {field.name: hints[field.name] for field in fields}, required


def _keys(hint: Any) -> tuple[dict[str, Any], list[str]]:
    # Where annotations are postponed, __required_keys__ knows the class's `total` only.
    required = set(hint.__required_keys__)
    hints = {}
    for name, key in typing.get_type_hints(hint, include_extras=True).items():
        origin = typing.get_origin(key)
        if origin is typing.NotRequired:
            required.discard(name)
        if origin is typing.Required:
            required.add(name)
        marked = origin in (typing.Required, typing.NotRequired)
        hints[name] = typing.get_args(key)[0] if marked else key
    return hints, sorted(required)


def _record(hint: Any, value: Any) -> Any:
    record = _fields(hint)
    if record is None:
        raise Unsupported(f"the annotation {_named(hint)} has no JSON form")
    hints, required = record
    members = _simple(dict, value)
    unfit = [name for name in members if name not in hints] or [
        name for name in required if name not in members
    ]
    if unfit:
        raise Unsupported(f"field {unfit[0][:80]!r} is unknown or missing")
    converted = {name: _located(name, convert, hints[name], members[name]) for name in members}
    return converted if typing.is_typeddict(hint) else hint(**converted)


def _simple(hint: Any, value: Any) -> Any:
    if hint is float and type(value) is int:
        return float(value)
    if hint is int and type(value) is float and value.is_integer():
        return int(value)  # to JSON, 5.0 is an integer
    if type(value) is not hint:
        raise Unsupported(f"must be {_named(hint)}, not {_named(type(value))}")
    return value


def _one_of(choices: dict[Any, Any], value: Any) -> Any:
    for choice, meant in choices.items():
        if type(choice) is type(value) and choice == value:
            return meant
    raise Unsupported(f"must be one of {', '.join(map(repr, choices))}")


def _first_fit(hints: tuple[Any, ...], value: Any) -> Any:
    """The choice of the very type first: True is no 1, and 1 no 1.0, where both may be."""
    for hint in sorted(hints, key=lambda hint: hint is not type(value)):
        try:
            return convert(hint, value)
        except Unsupported:
            continue
    raise Unsupported(f"must be one of {', '.join(map(_named, hints))}")


def _located(name: str, function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Unsupported as error:
        raise Unsupported(f"{name}: {error}") from error


def _named(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _read_docstring(documentation: str) -> tuple[str, dict[str, str]]:
    """First paragraph, and the lines of a Google-style `Args:` section by name."""
    paragraph = documentation.split("\n\n", 1)[0]
    if _SECTION.match(paragraph.split("\n", 1)[0]):
        raise Unsupported("has a docstring without a description before its arguments")
    descriptions: dict[str, str] = {}
    indent = name = None
    for line in documentation.splitlines():
        text = line.strip()
        depth = len(line) - len(line.lstrip())
        if depth == 0 and text:
            indent = -1 if _SECTION.match(line) else None
        if indent is None or depth == 0 or not text:
            continue
        indent = depth if indent == -1 else indent
        argument = _ARGUMENT.match(text) if depth == indent else None
        if argument:
            name = argument[1]
            descriptions[name] = argument[2]
        elif name is not None:
            descriptions[name] = f"{descriptions[name]} {text}".strip()
    return " ".join(paragraph.split()), descriptions
