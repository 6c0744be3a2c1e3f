"""SC-01: what is missing is named, with the mend, and nothing weaker is used instead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.cgroup import Cgroups
from mas_sandbox.runtimes.jail import probe as probe_module
from mas_sandbox.runtimes.jail.launch import SETTING
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.runtimes.select import choose_runtime
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio


async def test_without_bubblewrap_auto_finds_nothing_and_says_how_to_mend_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(probe_module, "_BWRAP_DIRECTORIES", (str(tmp_path),))
    for name in ("auto", "jail"):
        with pytest.raises(SandboxError) as refused:
            await choose_runtime(name)
        assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
        assert "apt-get install bubblewrap" in refused.value.message


async def test_an_old_bubblewrap_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "bwrap"
    old.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    old.chmod(0o755)
    monkeypatch.setattr(probe_module, "_BWRAP_DIRECTORIES", (str(tmp_path),))
    with pytest.raises(SandboxError, match=r"0\.4\.1 is older than 0\.8\.0"):
        await choose_runtime("jail")


async def test_a_bubblewrap_that_fails_is_reported_in_its_own_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "bwrap"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo bubblewrap 0.9.0 && exit\n'
        "echo 'bwrap: No permissions to create new namespace' >&2; exit 1\n"
    )
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(path.stat().st_mode | 0o055)
    broken.chmod(0o755)
    monkeypatch.setattr(probe_module, "_BWRAP_DIRECTORIES", (str(tmp_path),))
    monkeypatch.setenv(SETTING, "bubblewrap")
    with pytest.raises(SandboxError, match="No permissions to create new namespace"):
        await choose_runtime("jail")


async def test_without_control_groups_their_limits_are_unenforceable(tmp_path: Path) -> None:
    ownership = Ownership(tmp_path / "locks")
    runtime = JailRuntime(ownership, Cgroups(ownership, []))
    probe = await runtime.probe()
    assert probe.available
    assert not probe.enforced & {Control.MEMORY, Control.CPU, Control.PIDS}
    assert "Delegate=yes" in probe.controls[Control.MEMORY].mend
    for spec in (SandboxSpec(mem_mb=64), SandboxSpec(cpus=1.0), SandboxSpec(pids=10)):
        with pytest.raises(SandboxError) as refused:
            await runtime.start(spec)
        assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    async with await runtime.start(SandboxSpec(disk_mb=4)) as sandbox:
        assert Control.DISK in sandbox.enforced
        assert Control.MEMORY not in sandbox.enforced
    await runtime.close()


def test_a_daemon_without_a_runtime_ends_with_one_worded_line(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "mas_sandbox.server.main", "-runtime", "docker"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.startswith("mas-sandboxd: ")
    assert "Traceback" not in result.stderr
    assert "there is no runtime 'docker'; there are auto, local, jail" in result.stderr
