"""A host directory given to a hostile sandbox; what counts is what the host sees."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from pathlib import Path

import pytest

import census
from mas_sandbox.runtimes.base import Mount, Runtime, SandboxSpec
from mas_sandbox.runtimes.shares.kernel import rename
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

WALLED = ("jail", "gvisor", "microvm")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("runtime", WALLED, indirect=True),
]
CANARY = "canary-71ad0c"
EXCHANGE = 2  # RENAME_EXCHANGE, rename(2)
OWNER = (4321, 4322) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
GRANTS = [("/workspace", "rw"), ("/data", "rw")]
READ = [("/workspace", "rw"), ("/data", "ro")]


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """With a sentinel beside it that anybody could read, if they got there."""
    directory = tmp_path / "shared"
    directory.mkdir()
    os.chown(directory, *OWNER)
    (tmp_path / "sentinel").write_text(CANARY)
    for above in (tmp_path, *tmp_path.parents[:-2]):
        above.chmod(above.stat().st_mode | 0o055)
    return directory


def spec(directory: Path, *, writable: bool = True) -> SandboxSpec:
    return SandboxSpec(mounts=(Mount("/data", str(directory), writable),))


def bash(command: str, paths: list[tuple[str, str]] = GRANTS) -> Call:
    return Call("bash", {"command": command}, paths=paths, timeout_ms=60_000)


async def test_FS_03_links_in_it_lead_nowhere_on_the_host(runtime: Runtime, shared: Path) -> None:
    sentinel = shared.parent / "sentinel"
    (shared / "file").symlink_to(sentinel)
    (shared / "up").symlink_to("..")
    (shared / "dangling").symlink_to(shared.parent / "made")
    async with await runtime.start(spec(shared)) as sandbox:
        outcome = await sandbox.run(
            bash(
                f"cd /data; ln -s {sentinel} own; for f in file up/sentinel own ../sentinel; do"
                " cat $f; echo x >$f; done; echo x >dangling; cat /proc/self/root/../sentinel"
            )
        )
        told = [
            await sandbox.run(Call(tool, {"path": f"/data/{name}"} | more, paths=GRANTS))
            for name in ("file", "up/sentinel", "own", "dangling")
            for tool, more in (("read_file", {}), ("write_file", {"content": "x"}))
        ]
    assert CANARY.encode() not in outcome.stdout + outcome.stderr
    assert not any(each.has_value for each in told)
    assert sentinel.read_text() == CANARY
    assert not (shared.parent / "made").exists()


async def test_FS_04_swaps_on_the_host_never_lead_a_writer_outside(
    runtime: Runtime, shared: Path
) -> None:
    (shared.parent / "outside").mkdir(mode=0o777)
    (shared.parent / "outside").chmod(0o777)
    (shared / "directory").mkdir()
    os.chown(shared / "directory", *OWNER)
    (shared / "link").symlink_to(shared.parent / "outside")
    often = 300 if runtime.name == "microvm" else 1500  # emulated, each takes 20 ms
    over = threading.Event()

    def swap() -> None:
        inside = os.open(shared, os.O_PATH)
        while not over.is_set():
            rename(inside, b"directory", inside, b"link", EXCHANGE)
        os.close(inside)

    async with await runtime.start(spec(shared)) as sandbox:
        racing = threading.Thread(target=swap)
        racing.start()
        try:
            await sandbox.run(
                bash(f"for i in $(seq {often}); do echo x 2>/dev/null >/data/directory/f$i; done")
            )
            await asyncio.gather(
                *(
                    sandbox.run(
                        Call(
                            "write_file",
                            {"path": f"/data/directory/t{number}", "content": "x"},
                            paths=GRANTS,
                        )
                    )
                    for number in range(20)
                )
            )
        finally:
            over.set()
            racing.join()
    assert list((shared.parent / "outside").iterdir()) == []


async def test_FS_05_what_it_leaves_is_no_trap_for_the_daemon(
    runtime: Runtime, shared: Path
) -> None:
    """Links, pipes and deep trees are left alone when the sandbox ends."""
    async with await runtime.start(spec(shared)) as sandbox:
        await sandbox.run(
            bash(f"cd /data; ln -s {shared.parent} up; mkdir -p $(seq -s / 100); chmod 0 1")
        )
    assert (shared.parent / "sentinel").read_text() == CANARY
    assert (shared / "1").is_dir()
    (shared / "1").chmod(0o700)


async def test_FS_08_read_only_is_held_on_the_hosts_side(runtime: Runtime, shared: Path) -> None:
    (shared / "file").write_text("kept")
    (shared / "file").chmod(0o666)
    shared.chmod(0o777)
    before = (shared / "file").stat()
    async with await runtime.start(spec(shared, writable=False)) as sandbox:
        for grants in (READ, GRANTS):
            outcome = await sandbox.run(
                bash(
                    "cd /data; cat file; for a in 'touch new' 'rm file' 'mv file x' 'chmod 777 file'"
                    " 'ln file hard' 'mkdir d' 'truncate -s 0 file' 'dd if=/dev/zero of=file count=1'"
                    " 'mount -o remount,rw /data' 'touch file'; do $a 2>/dev/null && echo $a; done",
                    grants,
                )
            )
            assert outcome.stdout == b"kept"
    assert [path.name for path in shared.iterdir()] == ["file"]
    after = (shared / "file").stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_ctime_ns) == (
        *(before.st_mode, before.st_mtime_ns, before.st_ctime_ns),
    )


async def test_FS_10_a_source_that_is_a_link_is_refused(runtime: Runtime, shared: Path) -> None:
    (shared.parent / "link").symlink_to(shared)
    with pytest.raises(SandboxError) as refused:
        await runtime.start(spec(shared.parent / "link"))
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert "symbolic link" in refused.value.message


async def test_nothing_setuid_and_no_device_reaches_the_host(
    runtime: Runtime, shared: Path
) -> None:
    program = (
        "import os, stat\n"
        "os.chdir('/data')\n"
        "def attempt(act, *rest):\n"
        "    try: act(*rest)\n"
        "    except OSError: pass\n"
        "open('plain', 'w').close()\n"
        "attempt(os.chmod, 'plain', 0o6777)\n"
        "attempt(os.fchmod, os.open('plain', os.O_RDONLY), 0o4755)\n"
        "for flags in (os.O_CREAT | os.O_WRONLY, os.O_TMPFILE | os.O_RDWR):\n"
        "    attempt(os.open, 'created' if flags & os.O_CREAT else '.', flags, 0o6755)\n"
        "for kind in (stat.S_IFREG, stat.S_IFCHR, stat.S_IFBLK):\n"
        "    attempt(os.mknod, f'node{kind}', kind | 0o6755, os.makedev(1, 3))\n"
    )
    async with await runtime.start(spec(shared)) as sandbox:
        await sandbox.run(Call("python", {"code": program}, paths=GRANTS, timeout_ms=60_000))
    assert (shared / "plain").exists()
    for path in shared.iterdir():
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode), path
        assert not mode & (stat.S_ISUID | stat.S_ISGID), path


async def test_what_the_owner_may_not_read_stays_unread(runtime: Runtime, shared: Path) -> None:
    """The daemon's own rights, root's perhaps, are no part of what is given."""
    (shared / "secret").write_text(CANARY)
    (shared / "secret").chmod(0o600 if os.geteuid() == 0 else 0)
    async with await runtime.start(spec(shared)) as sandbox:
        outcome = await sandbox.run(
            bash("cat /data/secret; echo x >>/data/secret; chmod 777 /data/secret")
        )
        assert CANARY.encode() not in outcome.stdout
    assert (shared / "secret").stat().st_mode & 0o077 == 0


async def test_a_directory_beside_it_is_another_sandboxs(runtime: Runtime, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        os.chown(tmp_path / name, *OWNER)
        (tmp_path / name / "whose").write_text(name)
    async with (
        await runtime.start(spec(tmp_path / "a")) as first,
        await runtime.start(spec(tmp_path / "b")) as second,
    ):
        told = [await each.run(bash("cat /data/whose; ls /data/..")) for each in (first, second)]
    assert [outcome.stdout[:1] for outcome in told] == [b"a", b"b"]


@pytest.mark.serial  # it counts the host's mounts
async def test_nothing_is_left_of_it(runtime: Runtime, shared: Path) -> None:
    def traces() -> tuple[object, ...]:
        found = census.take()
        return found.mounts, found.descriptors, census.children(os.getpid())

    async with await runtime.start(spec(shared)):
        pass
    before = traces()
    async with await runtime.start(spec(shared)) as sandbox:
        await sandbox.run(bash("exec 3>/data/open; echo x >&3"))
        assert census.take().mounts == before[0]
    assert traces() == before
