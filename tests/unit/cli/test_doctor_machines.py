"""What `doctor` says of virtual machines: the image, what booted, the templates."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.cli import machines
from mas_sandbox.cli.machines import MachineFacts, machine_lines
from mas_sandbox.cli.main import main

NOW = 1_000_000.0
FACTS: dict[str, Any] = {
    "kernel": "6.12.95-cloud",
    "image": "0123456789abcdef" * 4,
    "source": "debian bookworm",
    "built_at": NOW - 2 * 86_400,
    "monitor": "qemu",
    "monitor_version": "7.2.22 (Debian)",
    "acceleration": "tcg",
    "not_booted": {"kvm": "boot: no answer within 20 s\x1b[2J"},
    "templates": [
        {"key": "a", "made_at": NOW - 7200, "size": 100_000_000},
        {"key": "b", "made_at": NOW - 65, "size": 23_000_000},
    ],
}


def test_image_monitor_and_templates_are_told() -> None:
    assert list(machine_lines(MachineFacts.model_validate(FACTS), NOW)) == [
        "  image      0123456789ab, built 2 days ago: debian bookworm, Linux 6.12.95-cloud",
        "  monitor    qemu 7.2.22 (Debian), which booted a guest with tcg",
        "             kvm did not boot one: boot: no answer within 20 s\x1b[2J",
        "  templates  2, 123 MB; the newest made 1 minute ago",
    ]


def test_without_an_image_of_ours_nothing_is_made_up() -> None:
    assert list(machine_lines(MachineFacts(), NOW)) == []
    own = MachineFacts(monitor="firecracker", monitor_version="1.16.1", acceleration="kvm")
    assert list(machine_lines(own, NOW)) == [
        "  monitor    firecracker 1.16.1, which booted a guest with kvm",
        "  templates  none yet; the first sandbox makes one",
    ]


def test_doctor_shows_them_to_a_person_and_to_a_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {"available": True, "taken_by_auto": False, "isolation": "vm", "facts": FACTS}
    jail = {"available": True, "isolation": "process", "facts": None}
    document = {
        "version": "0.1.0",
        "host": {"kernel": "6.1.0", "python": "3.11.7", "uid": 1000},
        "runtimes": {"jail": jail, "microvm": found},
    }
    program = tmp_path / "mas-sandboxd"
    program.write_text(f"#!/bin/sh\ncat <<'E'\n{json.dumps(document)}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("MAS_SANDBOXD", str(program))
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "Machines of microvm:\n  image      0123456789ab, built " in shown
    assert "no answer within 20 s\\x1b[2J" in shown
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["runtimes"]
    assert told["microvm"]["facts"] == FACTS
    assert told["jail"]["facts"] is None


def test_the_examples_in_it_are_true() -> None:
    assert doctest.testmod(machines).failed == 0
