"""The operator's own tools: Python files that only a sandbox ever imports."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mas_sandbox.tools.manifest import Capability, ToolSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

from .catalog import compile_schema

if TYPE_CHECKING:
    from mas_sandbox.runtimes.base import Sandbox

DESCRIBE = "describe_extensions"
"""The toolrunner's reserved tool. It is in no catalogue, so no caller can reach it."""
MAX_SOURCE_BYTES = 256 * 1024
MAX_TOOLS = 256
MAX_DESCRIPTION_CHARS = 8192
DESCRIBE_TIMEOUT_MS = 10_000
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_FIELDS = {"name", "description", "input_schema", "capabilities"}


def read_sources(paths: Sequence[Path]) -> tuple[tuple[str, str], ...]:
    """(file name, source) of each file, read and not run.

    Raises SandboxError `invalid_request` naming the file and the mend.
    """
    sources: dict[str, str] = {}
    for path in paths:
        if path.name in sources:
            raise _bad(path, "another -tools file has the same name; rename one of them")
        sources[path.name] = _read(path)
    if sum(map(len, sources.values())) > 2 * MAX_SOURCE_BYTES:
        raise _bad(paths[-1], f"all -tools files together hold {2 * MAX_SOURCE_BYTES} bytes")
    return tuple(sources.items())


def _read(path: Path) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _bad(path, "not a regular file")
        raw = file.read(MAX_SOURCE_BYTES + 1)
    if len(raw) > MAX_SOURCE_BYTES:
        raise _bad(path, f"over {MAX_SOURCE_BYTES} bytes; split it")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(path, f"not UTF-8 at byte {error.start}") from error


def _bad(path: Path, reason: str) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, f"-tools {path}: {reason}")


async def describe(sandbox: Sandbox, taken: Collection[str]) -> tuple[ToolSpec, ...]:
    """Ask a sandbox that carries the operator's files which tools they are.

    The files run while they are asked, so the answer is checked like any guest's word.
    `taken`: names that are built in. Raises SandboxError with the reason and the mend.
    """
    outcome = await sandbox.run(Call(DESCRIBE, {}, timeout_ms=DESCRIBE_TIMEOUT_MS))
    if outcome.code is not None:
        raise SandboxError(outcome.code, f"-tools: {outcome.message}")
    if not isinstance(outcome.value, list) or len(outcome.value) > MAX_TOOLS:
        raise _odd(f"described itself as something else than a list of up to {MAX_TOOLS} tools")
    specs: dict[str, ToolSpec] = {}
    for entry in outcome.value:
        spec = _spec(entry)
        if spec.name in specs or spec.name in taken or spec.name == DESCRIBE:
            raise _odd(f"the name {spec.name} is taken; rename the function")
        specs[spec.name] = spec
    return tuple(specs.values())


def _spec(entry: Any) -> ToolSpec:
    if not isinstance(entry, dict) or entry.keys() != _FIELDS:
        raise _odd(f"a tool is described by something else than {', '.join(sorted(_FIELDS))}")
    name, description = entry["name"], entry["description"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _odd(f"a tool's name must match {_NAME.pattern}, not be {str(name)[:80]!r}")
    if not isinstance(description, str) or len(description) > MAX_DESCRIPTION_CHARS:
        raise _odd(f"{name}: the description is not a text of {MAX_DESCRIPTION_CHARS} characters")
    return ToolSpec(
        name, description, _schema(name, entry["input_schema"]), _capabilities(name, entry)
    )


def _schema(name: str, schema: Any) -> dict[str, Any]:
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise _odd(f'{name}: input_schema is not a JSON Schema of "type": "object"')
    try:
        compile_schema(schema)
    except ValueError as error:
        raise _odd(f"{name}: input_schema is not valid: {str(error)[:300]}") from error
    return schema


def _capabilities(name: str, entry: dict[str, Any]) -> frozenset[Capability]:
    names = entry["capabilities"]
    if not isinstance(names, list) or not all(isinstance(each, str) for each in names):
        raise _odd(f"{name}: capabilities is not a list of names")
    try:
        return frozenset(Capability(each) for each in names)
    except ValueError as error:
        raise _odd(
            f"{name}: capabilities are among {', '.join(Capability)}, not {names[:8]!r:.200}"
        ) from error


def _odd(reason: str) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, f"-tools: {reason}")
