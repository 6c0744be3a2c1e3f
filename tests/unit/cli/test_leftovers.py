"""`mas-sandbox doctor --leftovers`: a table for people, JSON for programs, a status for both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mas_sandbox.cli.main import main

GROUP = {"kind": "control group", "name": "/sys/fs/cgroup/mas-sandbox-1", "processes": [17, 18]}
FILE = {"kind": "lock", "name": "/run/\x1b[2Jlock", "processes": []}


def saying(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *found: object) -> None:
    """A daemon whose -leftovers prints these."""
    program = tmp_path / "mas-sandboxd"
    document = json.dumps({"leftovers": found})
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -leftovers ] && cat <<'E'\n{document}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("MAS_SANDBOXD", str(program))


def test_what_is_left_is_a_table_and_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saying(monkeypatch, tmp_path, GROUP, FILE)
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor", "--leftovers"]) == 1
    said = capsys.readouterr().out
    assert "control group" in said
    assert "17 18" in said
    assert "\x1b" not in said
    assert "the next daemon that listens here removes it" in said


def test_nothing_left_is_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saying(monkeypatch, tmp_path)
    assert main(["doctor", "--leftovers"]) == 0
    assert capsys.readouterr().out == "nothing is left of daemons that were killed\n"


def test_programs_get_json(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saying(monkeypatch, tmp_path, GROUP)
    assert main(["doctor", "--leftovers", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"leftovers": [GROUP]}
