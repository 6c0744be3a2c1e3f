"""The tools there are, and whether a call's arguments fit one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from mas_sandbox.tools.manifest import ToolSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

MAX_REASONS = 3
MAX_REASON_CHARS = 300


class Catalog:
    """Built-in tools and the operator's, by name."""

    def __init__(self, specs: Iterable[ToolSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._validators: dict[str, Validator] = {}

    def __iter__(self) -> Iterator[ToolSpec]:
        return iter(self._specs.values())

    def find(self, name: str) -> ToolSpec:
        """Raises SandboxError `not_found`, with the nearest names."""
        spec = self._specs.get(name)
        if spec is None:
            raise SandboxError(ErrorCode.NOT_FOUND, self._unknown(name))
        return spec

    def check(self, spec: ToolSpec, args: Mapping[str, Any]) -> None:
        """Raises SandboxError `invalid_request` saying which arguments do not fit, and why."""
        validator = self._validators.get(spec.name)
        if validator is None:
            validator = self._validators[spec.name] = compile_schema(spec.input_schema)
        if validator.is_valid(args):
            return
        reasons = [
            _reason(error)
            for error, _ in zip(validator.iter_errors(args), range(MAX_REASONS), strict=False)
        ]
        raise SandboxError(
            ErrorCode.INVALID_REQUEST,
            f"arguments of {spec.name} do not fit its schema: {'; '.join(reasons)}",
        )

    def _unknown(self, name: str) -> str:
        from difflib import get_close_matches

        shown = name if len(name) <= 64 else name[:64] + "..."
        near = get_close_matches(name[:64], self._specs, n=3, cutoff=0.5)
        if near:
            return f"there is no tool {shown!r}; near names: {', '.join(near)}"
        return f"there is no tool {shown!r}; there are {', '.join(sorted(self._specs))}"


def compile_schema(schema: Mapping[str, Any]) -> Validator:
    """A validator that fetches nothing and whose patterns match in linear time, because
    an operator's schema comes out of a sandbox.

    Raises ValueError when it is not a JSON Schema (2020-12) on its own.
    """
    import jsonschema_rs

    try:
        return jsonschema_rs.Draft202012Validator(
            dict(schema),
            offline=True,
            mask="the value",
            pattern_options=jsonschema_rs.RegexOptions(size_limit=1 << 20),
        )
    except jsonschema_rs.ValidationError as error:
        raise ValueError(error.message) from error


def _reason(error: ValidationError) -> str:
    where = ".".join(str(step) for step in error.instance_path)
    text = f"{where}: {error.message}" if where else error.message
    return text if len(text) <= MAX_REASON_CHARS else text[:MAX_REASON_CHARS] + "..."
