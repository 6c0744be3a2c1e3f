"""Host directories in a gVisor sandbox, from the host's side."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Mount, SandboxSpec
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime, GvisorSandbox
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can map a directory's owner"),
]

OWNER, GROUP = 54321, 54322


async def bash(sandbox: GvisorSandbox, command: str) -> CallOutcome:
    return await sandbox.run(Call("bash", {"command": command}, timeout_ms=20_000))


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory of somebody's, with a file that only they may read."""
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / "file").write_text("of the host\n")
    (directory / "file").chmod(0o600)
    for path in (directory, directory / "file"):
        os.chown(path, OWNER, GROUP)
    return directory


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    directory = tmp_path / "kept"
    directory.mkdir()
    (directory / "file").write_text("as it is\n")
    return directory


@pytest.fixture
async def sandbox(gvisor: GvisorRuntime, shared: Path, kept: Path) -> AsyncIterator[GvisorSandbox]:
    mounts = (Mount("/data", str(shared), writable=True), Mount("/kept", str(kept)))
    async with await gvisor.start(SandboxSpec(mounts=mounts)) as started:
        assert Control.HOST_PATHS in started.enforced
        yield started


async def test_what_is_made_inside_belongs_to_the_directorys_owner(
    sandbox: GvisorSandbox, shared: Path
) -> None:
    outcome = await bash(
        sandbox,
        "id -u; cat /data/file; echo more >> /data/file; mkdir /data/d; echo x > /data/d/new;"
        " mv /data/file /data/moved; ln -s moved /data/link; cat /data/link",
    )
    assert outcome.stderr == b""
    assert outcome.stdout.split(b"\n", 1) == [b"1000", b"of the host\nof the host\nmore\n"]
    assert (shared / "moved").read_text() == "of the host\nmore\n"
    for path in (shared / "d", shared / "d" / "new", shared / "moved", shared / "link"):
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == (OWNER, GROUP), path


async def test_what_the_host_writes_is_seen_inside(sandbox: GvisorSandbox, shared: Path) -> None:
    await bash(sandbox, "cat /data/file; ls /data")
    (shared / "file").write_text("changed meanwhile\n")
    (shared / "late").write_text("late\n")
    outcome = await bash(sandbox, "cat /data/file /data/late")
    assert outcome.stdout == b"changed meanwhile\nlate\n"


async def test_FS_08_read_only_is_held_outside(sandbox: GvisorSandbox, kept: Path) -> None:
    outcome = await bash(
        sandbox,
        "cat /kept/file; for do in 'echo x > /kept/file' 'rm /kept/file' 'mkdir /kept/d'"
        " 'touch /kept/y' 'chmod 777 /kept/file' 'mount -o remount,rw /kept'; do"
        ' sh -c "$do" 2>/dev/null && echo "$do"; done',
    )
    assert outcome.stdout == b"as it is\n"
    assert [path.name for path in kept.iterdir()] == ["file"]
    assert (kept / "file").read_text() == "as it is\n"


async def test_nothing_outside_becomes_setuid_or_a_device(
    sandbox: GvisorSandbox, shared: Path
) -> None:
    await bash(
        sandbox,
        "cp /bin/true /data/a; chmod u+s /data/a; chmod 6755 /data/a; chmod g+s /data;"
        " install -m 4755 /bin/true /data/b; mknod /data/c c 1 3; mkfifo /data/p;"
        " python3 -c \"import os; os.open('/data/e', os.O_CREAT, 0o4755)\"",
    )
    found = [shared, *shared.iterdir()]
    assert shared / "a" in found
    for path in found:
        assert path.lstat().st_mode & 0o6000 == 0, path
        assert path.is_dir() or path.is_file(), path


async def test_FS_03_links_lead_nowhere_on_the_host(
    sandbox: GvisorSandbox, shared: Path, tmp_path: Path
) -> None:
    sentinel = tmp_path / "sentinel"
    sentinel.write_text("canary-30aa")
    (shared / "absolute").symlink_to(sentinel)
    (shared / "relative").symlink_to("../sentinel")
    outcome = await bash(
        sandbox,
        f"cat /data/absolute /data/relative /data/../sentinel; echo x > /data/absolute;"
        f" ln -s {sentinel} /data/own; cat /data/own",
    )
    assert outcome.stdout == b""
    assert sentinel.read_text() == "canary-30aa"


async def test_FS_10_a_source_through_a_link_is_refused(
    gvisor: GvisorRuntime, shared: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(shared)
    with pytest.raises(SandboxError) as refused:
        await gvisor.start(SandboxSpec(mounts=(Mount("/data", str(tmp_path / "link")),)))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert "symbolic link" in refused.value.message


async def test_a_host_directory_can_be_deep_inside(gvisor: GvisorRuntime, shared: Path) -> None:
    async with await gvisor.start(SandboxSpec(mounts=(Mount("/a/b/c", str(shared)),))) as started:
        outcome = await bash(started, "cat /a/b/c/file")
    assert outcome.stdout == b"of the host\n"


async def test_a_host_directory_can_be_the_workspace(gvisor: GvisorRuntime, shared: Path) -> None:
    mounts = (Mount("/workspace", str(shared), writable=True),)
    async with await gvisor.start(SandboxSpec(mounts=mounts)) as started:
        outcome = await bash(started, "pwd; cat file; echo x > made")
    assert outcome.stdout == b"/workspace\nof the host\n"
    assert (shared / "made").read_text() == "x\n"
