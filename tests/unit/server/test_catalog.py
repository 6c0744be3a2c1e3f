"""Arguments are checked on this side first, and nothing about a schema leads outside."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from mas_sandbox.server.catalog import Catalog, compile_schema
from mas_sandbox.tools.builtin import BUILTIN
from mas_sandbox.tools.manifest import ToolSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError

CATALOG = Catalog(BUILTIN)


def test_an_unknown_name_gets_the_near_ones_and_a_strange_one_gets_all() -> None:
    with pytest.raises(SandboxError, match="near names: read_file") as caught:
        CATALOG.find("readfile")
    assert caught.value.code is ErrorCode.NOT_FOUND
    with pytest.raises(SandboxError, match="there are bash, calculator"):
        CATALOG.find("§§§§")


def test_the_message_says_which_argument_and_why_and_stays_short() -> None:
    tool = CATALOG.find("bash")
    with pytest.raises(SandboxError, match=r"command: the value is not of type") as caught:
        CATALOG.check(tool, {"command": 1})
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    with pytest.raises(SandboxError) as caught:
        CATALOG.check(tool, {f"unknown{n}" * 20: n for n in range(1000)})
    assert len(caught.value.message) < 1200


def test_a_secret_in_an_argument_is_not_repeated() -> None:
    with pytest.raises(SandboxError) as caught:
        CATALOG.check(CATALOG.find("bash"), {"command": ["hunter2"]})
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "$ref": "http://127.0.0.1:9/schema"},
        {"type": "object", "properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"type": "nothing"},
        {"type": "object", "properties": {"a": {"pattern": "("}}},
        {"type": "object", "properties": {"a": {"pattern": "(a)\\1"}}},  # needs backtracking
    ],
)
def test_a_schema_that_leads_outside_or_is_none_is_refused(schema: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        compile_schema(schema)


def test_a_schema_reads_no_file(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text('{"type": "string"}')
    with pytest.raises(ValueError, match="disabled"):
        compile_schema({"type": "object", "$ref": f"file://{tmp_path}/other.json"})


def test_a_pattern_matches_in_linear_time() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    spec = ToolSpec("mine", "", schema, frozenset())
    began = time.process_time()
    with pytest.raises(SandboxError):
        Catalog([spec]).check(spec, {"a": "a" * 50_000 + "!"})
    assert time.process_time() - began < 1
