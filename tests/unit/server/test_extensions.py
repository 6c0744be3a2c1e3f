"""The operator's tools: read here, run only in a sandbox, believed in nothing."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.server.extensions import MAX_SOURCE_BYTES, describe, read_sources
from mas_sandbox.tools.manifest import ToolSpec
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.messages import Call

GOOD = {
    "name": "greet",
    "description": "Says hello.",
    "input_schema": {"type": "object", "properties": {}},
    "capabilities": ["file"],
}


def described(value: Any, taken: tuple[str, ...] = ()) -> tuple[ToolSpec, ...]:
    async def answer(call: Call) -> CallOutcome:
        assert call.tool == "describe_extensions"
        return returned(value)

    async def main() -> tuple[ToolSpec, ...]:
        sandbox = await MemoryRuntime(answer).start(SandboxSpec())
        return await describe(sandbox, taken)

    return asyncio.run(main())


def test_a_good_description_becomes_a_tool() -> None:
    (spec,) = described([GOOD])
    assert (spec.name, sorted(spec.capabilities)) == ("greet", ["file"])


@pytest.mark.parametrize(
    "value",
    [
        None,
        {"greet": GOOD},
        [1],
        [GOOD | {"more": 1}],
        [{key: GOOD[key] for key in ("name", "description")}],
        [GOOD | {"name": "Greet"}],
        [GOOD | {"name": "a" * 65}],
        [GOOD | {"name": "greet\n"}],
        [GOOD | {"name": 1}],
        [GOOD | {"name": "describe_extensions"}],
        [GOOD | {"description": None}],
        [GOOD | {"description": "x" * 10_000}],
        [GOOD | {"input_schema": {"type": "array"}}],
        [GOOD | {"input_schema": {"type": "object", "properties": 1}}],
        [GOOD | {"input_schema": {"type": "object", "$ref": "http://127.0.0.1/x"}}],
        [GOOD | {"capabilities": "file"}],
        [GOOD | {"capabilities": ["root"]}],
        [GOOD, GOOD],
        [GOOD | {"name": f"tool{n}"} for n in range(257)],
    ],
)
def test_an_odd_description_is_refused(value: Any) -> None:
    with pytest.raises(SandboxError, match="-tools: "):
        described(value)


def test_a_built_in_name_is_taken() -> None:
    with pytest.raises(SandboxError, match="greet is taken"):
        described([GOOD], ("greet",))


def test_sources_are_read_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("raise SystemExit")
    assert read_sources([path]) == (("mine.py", "raise SystemExit"),)


def test_a_source_that_is_none_is_named(tmp_path: Path) -> None:
    large, latin, fifo = tmp_path / "large.py", tmp_path / "latin.py", tmp_path / "fifo.py"
    large.write_bytes(b"#" * (MAX_SOURCE_BYTES + 1))
    latin.write_bytes(b"\xe9")
    os.mkfifo(fifo)
    for path in (large, latin, fifo, tmp_path / "missing.py"):
        with pytest.raises(SandboxError, match=path.name):
            read_sources([path])


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("")
    with pytest.raises(SandboxError, match="same name"):
        read_sources([path, path])


def test_a_real_file_becomes_a_tool_that_runs(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        'def shout(text: str) -> str:\n    """Say it louder.\n\n    Args:\n'
        '        text: what to say\n    """\n    return text.upper()\n'
    )

    async def main() -> None:
        runtime = build_runtime("local")
        async with await runtime.start(SandboxSpec(extensions=read_sources([path]))) as sandbox:
            (spec,) = await describe(sandbox, ())
            assert spec.name == "shout"
            assert spec.input_schema["required"] == ["text"]
            outcome = await sandbox.run(Call("shout", {"text": "hi"}))
            assert outcome.value == "HI"
        await runtime.close()

    asyncio.run(main())
