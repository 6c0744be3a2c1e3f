"""A host directory inside a sandbox: the same in every runtime that can have one."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Mount, Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

WALLED = ("jail", "gvisor", "microvm")
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.parametrize("runtime", WALLED, indirect=True),
]
GRANTS = [("/workspace", "rw"), ("/data", "rw"), ("/reference", "ro")]
OWNER = (4321, 4322) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
TREE_FILES, TREE_DIRECTORIES = 5000, 50
SECOND = 1.0


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A directory of somebody's who is neither root nor the sandbox's user outside."""
    directory = tmp_path / "data"
    directory.mkdir()
    os.chown(directory, *OWNER)
    return directory


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    directory = tmp_path / "reference"
    directory.mkdir()
    (directory / "text").write_text("for reference\n")
    return directory


@pytest.fixture
async def sandbox(runtime: Runtime, data: Path, reference: Path) -> AsyncIterator[Sandbox]:
    mounts = (Mount("/data", str(data), True), Mount("/reference", str(reference)))
    async with await runtime.start(SandboxSpec(mounts=mounts)) as started:
        yield started


async def bash(sandbox: Sandbox, command: str, cwd: str = "/data") -> CallOutcome:
    call = Call("bash", {"command": command}, cwd=cwd, paths=GRANTS, timeout_ms=180_000)
    return await sandbox.run(call)


async def said(sandbox: Sandbox, command: str) -> str:
    outcome = await bash(sandbox, command)
    assert (outcome.exit_code, outcome.code) == (0, None), (outcome.stderr, outcome.message)
    return outcome.stdout.decode()


async def test_the_control_is_named(sandbox: Sandbox) -> None:
    assert Control.HOST_PATHS in sandbox.enforced


async def test_what_the_host_writes_is_visible_within_a_second(
    sandbox: Sandbox, data: Path
) -> None:
    (data / "file").write_text("first")
    assert await said(sandbox, "cat file") == "first"
    (data / "file").write_text("second")
    (data / "new").write_text("new")
    await asyncio.sleep(SECOND)
    assert await said(sandbox, "cat file new; ls") == "secondnewfile\nnew\n"
    (data / "replacement").write_text("third, and longer")
    (data / "replacement").rename(data / "file")
    (data / "new").unlink()
    await asyncio.sleep(SECOND)
    assert await said(sandbox, "cat file; ls") == "third, and longerfile\n"


async def test_a_reader_with_the_file_open_sees_what_the_host_adds(
    sandbox: Sandbox, data: Path
) -> None:
    (data / "log").write_text("one\n")
    # Inside gVisor and a machine, inotify tells only of what was done there.
    tail = "timeout 20 tail ---disable-inotify -n 9 -s 0.2 -f log"
    reading = asyncio.create_task(said(sandbox, f"touch reading; {tail} | head -n 2"))
    while not (data / "reading").exists():
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.5)
    with (data / "log").open("a") as log:
        log.write("two\n")
    assert await reading == "one\ntwo\n"


async def test_what_the_sandbox_writes_is_the_owners_on_the_host_at_once(
    sandbox: Sandbox, data: Path
) -> None:
    script = "printf made >made; chmod 640 made; mkdir -p a/b; printf x >a/b/c; ln -s made link"
    await said(sandbox, script)
    assert (data / "made").read_text() == "made"
    assert (data / "made").stat().st_mode & 0o777 == 0o640
    assert (data / "link").readlink() == Path("made")
    for path in [data / "made", data / "link", *(data / "a").rglob("*")]:
        status = path.lstat()
        assert (status.st_uid, status.st_gid) == OWNER, path


async def test_files_are_the_users_own_inside(sandbox: Sandbox, data: Path) -> None:
    await said(sandbox, "touch file")
    assert (
        await said(sandbox, 'test -O file && test "$(stat -c %u:%g file)" = "$(id -u):$(id -g)"')
        == ""
    )


async def test_rename_append_truncate_and_links(sandbox: Sandbox, data: Path) -> None:
    assert (
        await said(
            sandbox,
            "echo one >a; mv a b; echo two >>b; mkdir d; mv b d/c; mv d e; cat e/c; ln e/c hard;"
            "stat -c %h hard; truncate -s 3 hard; cat e/c; rm -r e; cat hard",
        )
        == "one\ntwo\n2\noneone"
    )
    assert sorted(path.name for path in data.iterdir()) == ["hard"]


async def test_a_file_that_is_mapped_reads_and_writes(sandbox: Sandbox, data: Path) -> None:
    content = os.urandom(1 << 20)
    (data / "mapped").write_bytes(content)
    os.chown(data / "mapped", *OWNER)
    program = (
        "import hashlib, mmap\n"
        "with open('/data/mapped', 'r+b') as file, mmap.mmap(file.fileno(), 0) as pages:\n"
        "    print(hashlib.sha256(pages).hexdigest())\n"
        "    pages[4096:4100] = b'here'\n"
        "    pages.flush()\n"
    )
    outcome = await sandbox.run(Call("python", {"code": program}, paths=GRANTS))
    assert outcome.stdout.decode().strip() == hashlib.sha256(content).hexdigest(), outcome.stderr
    assert (data / "mapped").read_bytes()[4096:4100] == b"here"


async def test_a_file_that_is_open_and_removed_stays_readable(sandbox: Sandbox) -> None:
    script = "exec 3<>gone; rm gone; echo text >&3; stat -L -c %s /proc/self/fd/3"
    assert await said(sandbox, script) == "5\n"


async def test_a_hundred_megabytes_are_copied(sandbox: Sandbox, data: Path) -> None:
    digest = hashlib.sha256()
    with (data / "large").open("wb") as file:
        for _ in range(100):
            piece = os.urandom(1 << 20)
            digest.update(piece)
            file.write(piece)
    os.chown(data / "large", *OWNER)
    # The first may copy on the host; the second goes through the sandbox, both ways.
    await said(sandbox, "cp large copy; cat large >through")
    for name in ("copy", "through"):
        with (data / name).open("rb") as copied:
            assert hashlib.file_digest(copied, "sha256").hexdigest() == digest.hexdigest()


@pytest.mark.long_in_a_machine
async def test_git_status_of_a_tree_of_five_thousand_files(sandbox: Sandbox, data: Path) -> None:
    for number in range(TREE_FILES):
        directory = data / f"d{number % TREE_DIRECTORIES}"
        directory.mkdir(exist_ok=True)
        (directory / f"f{number}").write_text(f"{number}\n")
    _git(data, "init", "-q")
    # Inside, the owner has another number: git would read every file again to be sure.
    _git(data, "config", "core.checkStat", "minimal")
    await asyncio.sleep(SECOND + 0.1)  # and what is as young as the index, in any case
    _git(data, "add", ".")
    _git(data, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-qm", "all")
    for path in [data, *data.rglob("*")]:
        os.chown(path, *OWNER)
    assert await said(sandbox, "git status --short") == ""
    (data / "d1" / "f1").write_text("changed")
    (data / "d2" / "f2").unlink()
    (data / "new").touch()
    await asyncio.sleep(SECOND)
    changed = await said(sandbox, "git status --short && git add new")
    assert changed == " M d1/f1\n D d2/f2\n?? new\n"
    assert "new" in _git(data, "ls-files").splitlines()


async def test_file_tools_and_the_working_directory_know_it(sandbox: Sandbox, data: Path) -> None:
    write = Call("write_file", {"path": "/data/a/b", "content": "text"}, paths=GRANTS)
    assert (await sandbox.run(write)).code is None
    assert (data / "a" / "b").read_text() == "text"
    read = await sandbox.run(Call("read_file", {"path": "/reference/text"}, paths=GRANTS))
    assert read.value["content"] == "for reference\n"
    outcome = await bash(sandbox, "pwd; cat b", cwd="/data/a")
    assert outcome.stdout == b"/data/a\ntext"
    outside = Call("bash", {"command": "pwd"}, cwd="/reference", paths=GRANTS[:2])
    assert (await sandbox.run(outside)).code is ErrorCode.INVALID_REQUEST


async def test_a_call_that_is_not_granted_it_sees_nothing_of_it(
    sandbox: Sandbox, data: Path
) -> None:
    (data / "secret").write_text("canary")
    narrow = [("/workspace", "rw"), ("/reference", "ro")]
    command = "cat /data/secret; ls /data; echo x >/data/new; cat /reference/text"
    if Control.PATHS in sandbox.enforced:
        outcome = await sandbox.run(Call("bash", {"command": command}, paths=narrow))
        assert outcome.stdout == b"for reference\n"
    tool = await sandbox.run(Call("read_file", {"path": "/data/secret"}, paths=narrow))
    assert tool.code is ErrorCode.INVALID_REQUEST
    assert [path.name for path in data.iterdir()] == ["secret"]


async def test_it_may_be_the_workspace_itself_with_others_inside(
    runtime: Runtime, data: Path, reference: Path
) -> None:
    (data / "reference").mkdir()
    os.chown(data / "reference", *OWNER)
    mounts = (
        Mount("/workspace", str(data), True),
        Mount("/workspace/reference", str(reference)),
    )
    async with await runtime.start(SandboxSpec(mounts=mounts)) as sandbox:
        outcome = await sandbox.run(
            Call(
                "bash", {"command": "pwd; echo made >made; cat reference/text; echo x >reference/x"}
            )
        )
        await sandbox.run(Call("write_file", {"path": "by-tool", "content": "x"}))
    assert outcome.stdout == b"/workspace\nfor reference\n"
    assert b"Read-only" in outcome.stderr
    assert sorted(path.name for path in data.iterdir()) == ["by-tool", "made", "reference"]
    assert [path.name for path in reference.iterdir()] == ["text"]


def _git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
