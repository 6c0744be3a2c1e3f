"""Whoever starts a jail, it is the same jail; and what is particular to the zygote."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import mas_sandbox
from census import toolrunners
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.jail import layout, zygote
from mas_sandbox.runtimes.jail.launch import LauncherName
from mas_sandbox.runtimes.jail.probe import Tools, find_tools, posture_problem
from mas_sandbox.runtimes.jail.runtime import JailRuntime, JailSandbox
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

SEEN_INSIDE = (
    "cut -d' ' -f5,6 /proc/self/mountinfo | sort; ls /dev /etc /run /;"
    " grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/self/status; cat /proc/self/cgroup;"
    " cut -c33- /proc/net/if_inet6; cat /proc/net/dev | wc -l; hostname; umask; id; pwd; env | sort; ulimit -a;"
    " cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups; ls -l /proc/self/fd | wc -l;"
    " cat /etc/passwd /etc/hosts; stat -c '%a %n' /tmp /workspace /dev/shm /run/mas/*;"
    " cat /sys/kernel/uevent_seqnum 2>&1; unshare -U true 2>&1; echo > /proc/sys/net/ipv4/ip_forward"
)


def runtime_of(launcher: LauncherName) -> JailRuntime:
    return JailRuntime(Ownership(), launcher=launcher)


@pytest.fixture
async def jails() -> AsyncIterator[JailRuntime]:
    """Of the zygote, and of nothing else."""
    runtime = runtime_of("zygote")
    assert (await runtime.probe()).available
    yield runtime
    await runtime.close()


@pytest.fixture
def hidden(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", "canary-77a1")
    yield


async def bash(sandbox: JailSandbox, command: str) -> bytes:
    outcome = await sandbox.run(Call("bash", {"command": command}, timeout_ms=20_000))
    return outcome.stdout + outcome.stderr


def zygote_of(sandbox: JailSandbox) -> int:
    assert toolrunners(sandbox) == [sandbox.init], "it was bubblewrap that started it"
    return int(status(sandbox.init)["PPid"])


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def gone(process: int) -> None:
    """It has ended, and is at most waited for."""
    async with asyncio.timeout(5):
        while True:
            with suppress(FileNotFoundError, ProcessLookupError):
                if status(process)["State"][0] not in "ZX":
                    await asyncio.sleep(0.01)
                    continue
            return


async def test_a_jail_of_the_zygotes_is_the_jail_that_bubblewrap_makes(hidden: None) -> None:
    seen = {}
    for launcher in ("bubblewrap", "zygote"):
        runtime = runtime_of(launcher)
        try:
            await runtime.probe()
            async with await runtime.start(SandboxSpec(env=(("GIVEN", "1"),))) as sandbox:
                assert posture_problem(sandbox.init) == ""
                (toolrunner,) = toolrunners(sandbox)
                environment = Path(f"/proc/{toolrunner}/environ").read_bytes()
                assert b"canary" not in environment
                links = [os.readlink(each) for each in Path(f"/proc/{toolrunner}/fd").iterdir()]
                seen[launcher] = sorted(link.split(":[")[0] for link in links)
                seen[launcher] += (await bash(sandbox, SEEN_INSIDE)).decode().splitlines()
        finally:
            await runtime.close()
    assert seen["zygote"] == seen["bubblewrap"]
    assert any("Permission denied" in line or "not permitted" in line for line in seen["zygote"])


async def test_the_zygote_holds_no_secret_and_no_right_it_does_not_need(
    hidden: None, tmp_path: Path
) -> None:
    with (tmp_path / "open-in-the-daemon").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        runtime = runtime_of("zygote")
        await runtime.probe()
        async with await runtime.start(SandboxSpec()) as sandbox:
            zygote = zygote_of(sandbox)
            place = Path(f"/proc/{zygote}")
            assert (place / "environ").read_bytes() == b""
            kinds = {os.readlink(each).split(":")[0] for each in (place / "fd").iterdir()}
            assert kinds <= {"/dev/null", "/memfd", "socket", "pipe", "anon_inode"}
            said = status(zygote)
            allowed = 0b111 << 5 if os.geteuid() == 0 else 0
            assert int(said["CapPrm"], 16) == int(said["CapEff"], 16) == allowed
            assert int(said["CapBnd"], 16) == 0
            assert said["NoNewPrivs"] == "1"
            assert said["Threads"] == "1"
            assert not (place / "root/home").exists()
            assert not (place / "root/tmp").exists()
            mounts = (Path(f"/proc/{sandbox.init}") / "mountinfo").read_text()
            assert "/jail" not in mounts
            assert " /etc " not in mounts
        await runtime.close()


async def test_a_jail_ends_with_its_zygote_and_the_next_has_another(jails: JailRuntime) -> None:
    async with await jails.start(SandboxSpec()) as sandbox:
        first = zygote_of(sandbox)
        os.kill(first, signal.SIGKILL)
        await gone(sandbox.init)
        with pytest.raises(SandboxError) as lost:
            await bash(sandbox, "echo alive")
        assert lost.value.code is ErrorCode.GUEST_LOST
        async with asyncio.timeout(10):
            while True:
                with suppress(SandboxError):  # asked before its end was heard of
                    async with await jails.start(SandboxSpec()) as another:
                        assert zygote_of(another) != first
                        assert await bash(another, "echo alive") == b"alive\n"
                    break


async def test_more_jails_at_once_than_are_asked_for_at_once(jails: JailRuntime) -> None:
    async def one(number: int) -> bytes:
        async with await jails.start(SandboxSpec()) as sandbox:
            return await bash(sandbox, f"echo {number}")

    said = await asyncio.gather(*(one(number) for number in range(12)))
    assert said == [f"{number}\n".encode() for number in range(12)]


async def test_a_start_that_nobody_waits_for_leaves_no_jail(jails: JailRuntime) -> None:
    async with await jails.start(SandboxSpec()) as kept:
        zygote = zygote_of(kept)
        starting = [asyncio.create_task(jails.start(SandboxSpec())) for _ in range(6)]
        await asyncio.sleep(0)
        for task in starting:
            task.cancel()
        await asyncio.wait(starting)
        children = Path(f"/proc/{zygote}/task/{zygote}/children")
        async with asyncio.timeout(5):
            while children.read_text().split() != [str(kept.init)]:
                await asyncio.sleep(0.01)
        assert await bash(kept, "echo alive") == b"alive\n"


async def test_what_keeps_a_jail_from_being_built_is_said(
    jails: JailRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await jails.start(SandboxSpec()) as sandbox:
        zygote = zygote_of(sandbox)
    monkeypatch.setattr(layout, "SCRATCH", ("/dev/shm", "/tmp", "/usr/nowhere"))
    with pytest.raises(SandboxError, match=r"Read-only file system|/usr/nowhere") as refused:
        await jails.start(SandboxSpec())
    assert refused.value.code is ErrorCode.SANDBOX_CRASH
    monkeypatch.undo()
    async with await jails.start(SandboxSpec()) as sandbox:
        assert zygote_of(sandbox) == zygote


async def test_where_no_zygote_can_be_had_the_reason_is_said(
    jails: JailRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "SCRATCH", ("/dev/shm", "/tmp", "/usr/nowhere"))
    with pytest.raises(SandboxError, match="Read-only file system") as refused:
        await jails.start(SandboxSpec())
    assert refused.value.code is ErrorCode.SANDBOX_CRASH


async def test_the_jails_last_user_namespace_is_the_last(jails: JailRuntime) -> None:
    """Also for who is under no filter of system calls and has every capability in it."""
    code = (
        "import ctypes, errno, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "place = os.open(f'/proc/{sys.argv[1]}/ns/user', os.O_RDONLY)\n"
        "assert libc.setns(place, 0x10000000) == 0, ctypes.get_errno()\n"
        "assert libc.unshare(0x10000000) == -1\n"
        "assert ctypes.get_errno() == errno.ENOSPC, ctypes.get_errno()\n"
    )
    async with await jails.start(SandboxSpec()) as sandbox:
        program = (sys.executable, "-c", code, str(sandbox.init))
        process = await asyncio.create_subprocess_exec(*program, stderr=-1)
        _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


async def test_where_a_zygote_can_build_no_jail_bubblewrap_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(zygote, "plan_common", lambda *_: layout.Plan(["--share-net"]))
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    runtime = JailRuntime(Ownership(tmp_path / "locks"), launcher="zygote")
    try:
        probe = await runtime.probe()
        assert probe.available
        assert probe.facts["launcher"] == "bubblewrap"
        async with await runtime.start(SandboxSpec()) as sandbox:
            assert toolrunners(sandbox) != [sandbox.init]
            assert await bash(sandbox, "echo alive") == b"alive\n"
    finally:
        await runtime.close()


AS_USER = """
import asyncio
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.jail import probe
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.messages import Call

async def claimed(name, facts, controls, *rest):
    return controls

async def main():
    probe.proven = claimed
    runtime = JailRuntime(Ownership(), launcher="zygote")
    found = await runtime.probe()
    async with await runtime.start(SandboxSpec(disk_files=50)) as sandbox:
        said = await sandbox.run(Call("bash", {"command": "id -u"}))
    print(found.facts["launcher"], said.stdout)
    await runtime.close()

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test here is by a user, then")
async def test_a_user_s_zygote_builds_jails_that_its_daemon_can_look_into(tmp_path: Path) -> None:
    """By one whom Python and the project are readable to."""
    for parent in (tmp_path, *tmp_path.parents[:-2]):
        parent.chmod(parent.stat().st_mode | 0o055)
    shutil.copytree(Path(mas_sandbox.__file__).parent, tmp_path / "mas_sandbox")
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    os.chown(home, 1000, 1000)
    found = find_tools()
    assert isinstance(found, Tools)
    process = await asyncio.create_subprocess_exec(
        *(found.python, "-S", "-c", AS_USER),
        stdout=-1,
        stderr=-1,
        user=1000,
        group=1000,
        extra_groups=[],
        cwd=tmp_path,
        env={"HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
    )
    said, complaint = await process.communicate()
    assert said == b"zygote b'1000\\n'\n", complaint.decode()
