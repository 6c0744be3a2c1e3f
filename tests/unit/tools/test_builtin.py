"""The manifests of the built-in tools: valid, complete, and true of the guest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import NAMES, ToolFailure, load
from mas_sandbox.tools.builtin import BUILTIN
from mas_sandbox.tools.manifest import Capability, ToolSpec

each_tool = pytest.mark.parametrize("tool", BUILTIN, ids=lambda tool: tool.name)


def test_the_manifests_and_the_guest_name_the_same_tools() -> None:
    assert sorted(tool.name for tool in BUILTIN) == NAMES


@each_tool
def test_a_schema_is_valid_closed_and_describes_every_argument(tool: ToolSpec) -> None:
    schema = dict(tool.input_schema)
    jsonschema_rs.meta.validate(schema)
    jsonschema_rs.validator_for(schema)
    assert schema["additionalProperties"] is False
    assert set(schema["required"]) <= set(schema["properties"])
    for name, argument in schema["properties"].items():
        assert argument["description"].endswith("."), name
        assert name not in schema["required"] or "default" not in argument
        if "default" in argument:
            assert jsonschema_rs.is_valid(argument, argument["default"])


@each_tool
def test_a_description_is_short_and_says_what_is_returned(tool: ToolSpec) -> None:
    assert 40 < len(tool.description) < 350
    assert "eturns" in tool.description


@each_tool
def test_every_example_fits_the_schema_and_the_guest(
    tool: ToolSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HTTP_PROXY", raising=False)  # the one way out of the network's tools
    validator = jsonschema_rs.validator_for(dict(tool.input_schema))
    examples = tool.input_schema["examples"]
    assert examples
    files = Files([("/workspace", "rw")], str(tmp_path))
    for example in examples:
        validator.validate(example)
        loaded = load(tool.name)
        try:
            (loaded.program or loaded.run)(example, files)
        except ToolFailure as failure:  # no such file, no way out, but no word on arguments
            assert failure.code == "tool_failed", failure.message


@each_tool
def test_the_guest_takes_no_argument_the_schema_lacks(tool: ToolSpec, tmp_path: Path) -> None:
    loaded = load(tool.name)
    files = Files([("/workspace", "rw")], str(tmp_path))
    with pytest.raises(ToolFailure) as caught:
        (loaded.program or loaded.run)({"unheard_of": 1}, files)
    known: dict[str, Any] = dict(tool.input_schema["properties"])
    assert caught.value.code == "invalid_request"
    assert caught.value.message.endswith(f"the arguments are {', '.join(known)}")


def test_capabilities_are_what_each_tool_can_do() -> None:
    file, program = {Capability.FILE}, {Capability.EXEC, Capability.FILE}
    network = {Capability.NETWORK}
    capabilities = {tool.name: set(tool.capabilities) for tool in BUILTIN}
    assert capabilities.pop("calculator") == set()
    assert capabilities.pop("bash") == capabilities.pop("python") == program
    for name in ("http_request", "fetch", "web_search"):
        assert capabilities.pop(name) == network
    assert all(each == file for each in capabilities.values())
