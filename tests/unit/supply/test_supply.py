"""What is known of dependencies is said as it is: nothing known is not nothing wrong."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import cyclonedx.schema
import jsonschema_rs
import pytest
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion

ROOT = Path(__file__).resolve().parents[3]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dependency(name: str, *flaws: str) -> dict[str, Any]:
    vulns = [{"id": flaw, "fix_versions": ["2.0"]} for flaw in flaws]
    return {"name": name, "version": "1.0", "vulns": vulns}


SKIPPED = {"name": "a", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("dependencies", "status", "said"),
    [
        ([SKIPPED, SKIPPED], 0, "not audited"),
        ([dependency("a"), dependency("b")], 0, "2 packages audited, 0 vulnerabilities"),
        ([dependency("b"), SKIPPED], 0, "not audited: a"),
        ([dependency("b", "X-1"), SKIPPED], 1, "b 1.0: X-1, mended in 2.0"),
    ],
)
def test_the_verdict(dependencies: list[dict[str, Any]], status: int, said: str) -> None:
    found, lines = script("audit_lock").verdict({"dependencies": dependencies})
    assert found == status
    assert said in "\n".join(lines)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        ("echo 'no route to host' >&2; exit 1", 0, "no vulnerability database answers (no route"),
        ("""echo '{"dependencies": []}'""", 0, "not audited"),
    ],
)
def test_without_a_database_that_is_said_and_is_no_failure(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    status: int,
    said: str,
) -> None:
    """A complete double of the program: what pip-audit does without network."""
    audit = script("audit_lock")
    double = tmp_path / "pip-audit"
    double.write_text(f"#!/bin/sh\n{answer}\n")
    double.chmod(0o755)
    monkeypatch.setattr(audit.sys, "executable", str(tmp_path / "python"))
    assert audit.main() == status
    assert said in capsys.readouterr().err


def test_the_bill_holds_the_whole_lock_and_nothing_else() -> None:
    text = make_outputter(
        script("bom").bill(ROOT), OutputFormat.JSON, SchemaVersion.V1_6
    ).output_as_string()
    bill = json.loads(text)
    lock = (ROOT / "requirements.lock").read_text()
    pinned = set(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)", lock, re.MULTILINE))
    assert {(each["name"], each["version"]) for each in bill["components"]} == pinned
    hashes = [
        each["value"]
        for component in bill["components"]
        for each in component["properties"]
        if each["name"] == "mas-sandbox:lock:hash"
    ]
    assert sorted(hashes) == sorted(re.findall(r"--hash=(\S+)", lock))
    schemas = Path(cyclonedx.schema.__file__).parent / "_res"

    def shipped(uri: str) -> Any:
        return json.loads((schemas / uri.rpartition("/")[2]).read_text())

    schema = shipped("bom-1.6.SNAPSHOT.schema.json")
    jsonschema_rs.validator_for(schema, retriever=shipped).validate(bill)
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validator_for(schema, retriever=shipped).validate(bill | {"components": 1})


def test_a_lock_that_pins_no_hash_makes_no_bill(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    (tmp_path / "requirements.lock").write_text("rich==1.0\n")
    with pytest.raises(ValueError, match="rich is not pinned with its hashes"):
        script("bom").bill(tmp_path)
