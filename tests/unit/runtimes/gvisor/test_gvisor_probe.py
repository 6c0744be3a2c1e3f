"""What the probe says where something is missing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Probe
from mas_sandbox.runtimes.gvisor import probe as probing
from mas_sandbox.runtimes.gvisor import programs
from mas_sandbox.runtimes.gvisor.programs import Tools, find_programs
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.gvisor.version import FLOOR
from mas_sandbox.runtimes.ownership import Ownership, lock_directory
from mas_sandbox.wire.controls import Control

pytestmark = pytest.mark.anyio


async def test_an_old_runsc_is_available_with_a_warning_and_not_for_auto(
    gvisor: GvisorRuntime,
) -> None:
    probe = await gvisor.probe()
    release = int(probe.version.partition(",")[0])
    assert bool(probe.warning) == (release < FLOOR)
    assert not probe.taken_by_auto
    assert "platform" in probe.version
    assert probe.controls.keys() == set(Control)
    assert all(status.enforced or status.mend for status in probe.controls.values())


def test_without_runsc_the_probe_says_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "RUNSC_DIRECTORIES", (str(tmp_path),))
    found = find_programs()
    assert isinstance(found, Probe)
    assert not found.available
    assert "runsc" in found.reason
    assert "gvisor.dev" in found.mend


def test_flags_are_given_to_a_runsc_that_knows_them() -> None:
    found = find_programs()
    assert isinstance(found, Tools)
    assert "host-uds=none" in found.flags


async def test_every_platform_is_tried_and_the_reason_of_each_is_told(tmp_path: Path) -> None:
    found = find_programs()
    assert isinstance(found, Tools)
    built = GvisorRuntime(Ownership(tmp_path / "own"))
    outcome = await probing.try_platforms(built, replace(found, runsc="/usr/bin/false"))
    assert isinstance(outcome, Probe)
    assert not outcome.available
    for name in probing.PLATFORMS:
        assert f"{name}: " in outcome.reason
    assert outcome.mend
    await built.close()


async def test_what_was_found_is_kept_until_something_changes(
    gvisor: GvisorRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    for proof in lock_directory().glob("proof-gvisor-*.json"):  # it takes seconds to find
        shutil.copy2(proof, tmp_path / "own")
    first = GvisorRuntime(Ownership(tmp_path / "own"))
    found = await first.probe()
    await first.close()
    monkeypatch.setattr(probing, "PLATFORMS", ())
    second = GvisorRuntime(Ownership(tmp_path / "own"))
    assert await second.probe() == found
    await second.close()
    for kept in (tmp_path / "own").glob("probe-gvisor-*.json"):
        kept.write_text('{"runsc": "/usr/bin/runsc"}')
    third = GvisorRuntime(Ownership(tmp_path / "own"))
    assert not (await third.probe()).available
    await third.close()
