"""What the self-test found is kept for as long as the host is up, and believed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import ControlStatus, Sandbox, SandboxSpec
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.local import LocalRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.runtimes.proof import proven as module
from mas_sandbox.runtimes.proof.proven import proven
from mas_sandbox.runtimes.proof.run import Start
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

CLAIMED = {
    Control.OUTPUT: ControlStatus(True, "counted"),
    Control.EGRESS: ControlStatus(True, "the daemon's own"),
    Control.SYSCALLS: ControlStatus(False, "none", "use another"),
}


class Starts:
    """Starts real sandboxes and counts them; `broken`: none comes up."""

    def __init__(self, start: Start) -> None:
        self.count = 0
        self.broken = False
        self._start = start

    async def __call__(self, spec: SandboxSpec) -> Sandbox:
        self.count += 1
        if self.broken:
            raise SandboxError(ErrorCode.SANDBOX_CRASH, "no room")
        return await self._start(spec)


@pytest.fixture
def starts(tmp_path: Path) -> Starts:
    return Starts(LocalRuntime(Ownership(tmp_path / "locks"))._start)


async def found(starts: Starts, tmp_path: Path, facts: str = "") -> dict[Control, ControlStatus]:
    return await proven("local", facts, CLAIMED, starts, tmp_path)


async def test_what_held_is_as_claimed_and_what_was_not_claimed_is_not_tried(
    starts: Starts, tmp_path: Path
) -> None:
    assert await found(starts, tmp_path) == CLAIMED
    assert starts.count == 1


async def test_it_is_tried_once_for_each_boot_and_each_host(
    starts: Starts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        await found(starts, tmp_path)
    assert starts.count == 1
    await found(starts, tmp_path, "another kernel")
    assert starts.count == 2
    boot = tmp_path / "boot_id"
    boot.write_text("another boot\n")
    monkeypatch.setattr(module, "_BOOT_ID", boot)
    await found(starts, tmp_path)
    assert starts.count == 3


async def test_daemons_that_start_together_try_it_once(starts: Starts, tmp_path: Path) -> None:
    await asyncio.gather(*(found(starts, tmp_path) for _ in range(3)))
    assert starts.count == 1


async def test_what_could_not_be_tried_is_not_enforced_and_tried_again_next_time(
    starts: Starts, tmp_path: Path
) -> None:
    starts.broken = True
    status = (await found(starts, tmp_path))[Control.OUTPUT]
    assert not status.enforced
    assert "no room" in status.mend
    starts.broken = False
    assert (await found(starts, tmp_path))[Control.OUTPUT].enforced


async def test_a_file_that_was_cut_short_is_tried_again(starts: Starts, tmp_path: Path) -> None:
    await found(starts, tmp_path)
    (kept,) = tmp_path.glob("proof-local-*.json")
    kept.write_text("{")
    await found(starts, tmp_path)
    assert starts.count == 2
    assert json.loads(kept.read_text()) == {}


async def test_a_control_that_was_broken_is_refused_by_its_runtime(tmp_path: Path) -> None:
    for directory in tmp_path.parents[:-2]:
        directory.chmod(directory.stat().st_mode | 0o011)
    first = JailRuntime(Ownership(tmp_path))
    await first.probe()
    await first.close()
    (kept,) = tmp_path.glob("proof-jail-*.json")
    kept.write_text(json.dumps({"disk": "3 GiB were written", "network": "a socket was reached"}))
    jail = JailRuntime(Ownership(tmp_path))
    probe = await jail.probe()
    assert not probe.enforced & {Control.DISK, Control.NETWORK}
    assert "a socket was reached" in probe.controls[Control.NETWORK].mend
    with pytest.raises(SandboxError, match="3 GiB were written") as refused:
        await jail.start(SandboxSpec(disk_mb=4))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    async with await jail.start(SandboxSpec()) as sandbox:
        assert Control.NETWORK not in sandbox.enforced
        assert Control.FILESYSTEM in sandbox.enforced
    await jail.close()
