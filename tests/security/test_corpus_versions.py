"""SC-04: programs that are too old are refused, and no weaker runtime takes their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Probe, SandboxSpec
from mas_sandbox.runtimes.jail import probe
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import SandboxError


async def test_SC_04_an_old_bubblewrap_makes_no_jail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bwrap"
    program.write_text("#!/bin/sh\necho bubblewrap 0.7.9\n")
    program.chmod(0o755)
    monkeypatch.setattr(probe, "_BWRAP_DIRECTORIES", (str(tmp_path),))
    runtime = JailRuntime(Ownership(tmp_path / "locks"))
    found = await runtime.probe()
    assert isinstance(found, Probe)
    assert not found.available
    assert "0.7.9" in found.reason
    assert "install" in found.mend
    with pytest.raises(SandboxError):
        await runtime.start(SandboxSpec())
    await runtime.close()


pytestmark = pytest.mark.anyio
