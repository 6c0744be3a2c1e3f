"""gVisor against a hostile program; what counts is what the host sees.

Names begin with the ids of the security corpus.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.gvisor.posture import descendants, posture_problem
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.identity import COUNT, FIRST
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

CANARY = "canary-81c3aa"


async def bash(sandbox: Sandbox, command: str) -> CallOutcome:
    return await sandbox.run(Call("bash", {"command": command}, timeout_ms=20_000))


async def python(sandbox: Sandbox, code: str) -> CallOutcome:
    return await sandbox.run(Call("python", {"code": code}, timeout_ms=20_000))


def uid(process: int) -> int:
    return Path(f"/proc/{process}").stat().st_uid


async def test_KS_12_posture_as_the_host_sees_it(gvisor: GvisorRuntime) -> None:
    async with await gvisor.start(SandboxSpec()) as sandbox:
        call = asyncio.create_task(bash(sandbox, "sleep 2"))
        await asyncio.sleep(0.5)
        assert posture_problem(sandbox.init) == ""
        processes = [sandbox.init, *descendants(sandbox.init)]
        assert len(processes) >= 4
        if os.geteuid() == 0:
            owners = {
                int(Path(f"/proc/{each}/status").read_text().partition("Uid:\t")[2].split("\t")[0])
                for each in processes
            }
            (owner,) = owners
            assert FIRST <= owner < FIRST + COUNT
        call.cancel()


async def test_KS_12_posture_tells_a_sandbox_that_is_none(jail: Runtime) -> None:
    assert "no gofer" in posture_problem(os.getpid())
    async with await jail.start(SandboxSpec()) as sandbox:
        assert isinstance(sandbox, JailSandbox)
        assert "no gofer" in posture_problem(sandbox.init)


async def test_FS_01_a_host_file_cannot_be_read(gvisor: GvisorRuntime, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    sentinel.write_text(CANARY)
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    async with await gvisor.start(SandboxSpec()) as sandbox:
        seen = await bash(
            sandbox, f"cat {sentinel} /proc/1/root{sentinel}; ls -d /root /home /var /bundle"
        )
        inside = await bash(sandbox, "ls -A /etc /run/mas; cat /proc/mounts /proc/1/cmdline")
    assert seen.stdout == b""
    assert CANARY.encode() not in seen.stderr
    assert str(Path.cwd()).encode() not in inside.stdout


async def test_FS_08_nothing_of_the_host_can_be_written(gvisor: GvisorRuntime) -> None:
    before = Path("/usr").stat().st_mtime_ns
    async with await gvisor.start(SandboxSpec()) as sandbox:
        outcome = await bash(
            sandbox,
            "for p in /x /usr/x /etc/x /run/x /dev/x /sys/x /run/mas/toolrunner.pyz; do"
            " (echo y > $p) 2>/dev/null && echo wrote $p; done; mount -o remount,rw / && echo rw",
        )
    assert outcome.stdout == b""
    assert Path("/usr").stat().st_mtime_ns == before


async def test_PR_02_the_daemons_environment_is_nowhere(
    gvisor: GvisorRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", CANARY)
    async with await gvisor.start(SandboxSpec()) as sandbox:
        outcome = await bash(sandbox, "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")
        for process in (sandbox.init, *descendants(sandbox.init)):
            assert CANARY.encode() not in Path(f"/proc/{process}/environ").read_bytes()
    assert CANARY.encode() not in outcome.stdout


async def test_PR_03_no_descriptor_of_the_daemon_comes_in(
    gvisor: GvisorRuntime, tmp_path: Path
) -> None:
    with (tmp_path / "open-in-the-daemon").open("w") as file, ExitStack() as undo:
        os.set_inheritable(file.fileno(), True)
        undo.callback(os.set_inheritable, file.fileno(), False)
        async with await gvisor.start(SandboxSpec()) as sandbox:
            for process in (sandbox.init, *descendants(sandbox.init)):
                targets = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process}/fd")]
                assert not [target for target in targets if "open-in-the-daemon" in target]


async def test_AP_12_the_toolrunner_and_its_channel_are_out_of_reach(
    gvisor: GvisorRuntime,
) -> None:
    code = (
        "import ctypes, os, signal, stat\n"
        "libc = ctypes.CDLL(None)\n"
        "for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):\n"
        "    for attempt in (lambda: os.kill(1, number),\n"
        "                    lambda: libc.syscall(62, ctypes.c_long(0x100000001), number)):\n"
        "        try:\n"
        "            if attempt() != -1: print('signalled', number)\n"
        "        except PermissionError: pass\n"
        "try: os.kill(-1, signal.SIGKILL)\n"
        "except ProcessLookupError: pass\n"
        "for name in os.listdir('/proc/1/fd'):\n"
        "    try: opened = os.open(f'/proc/1/fd/{name}', os.O_RDWR)\n"
        "    except OSError: continue\n"
        "    if stat.S_ISSOCK(os.fstat(opened).st_mode): print('channel', name)\n"
        "try: print(open('/proc/1/mem', 'rb').read(1))\n"
        "except OSError: pass\n"
    )
    async with await gvisor.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
        assert outcome.stdout == b"", outcome.stdout
        assert outcome.exit_code == 0, outcome.stderr
        assert (await bash(sandbox, "echo alive")).stdout == b"alive\n"


async def test_NW_01_there_is_no_way_out(gvisor: GvisorRuntime) -> None:
    code = (
        "import socket\n"
        "for family, address in ((socket.AF_INET, ('192.0.2.1', 80)),"
        " (socket.AF_INET6, ('2001:db8::1', 80))):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
        "        s = socket.socket(family, kind); s.settimeout(2)\n"
        "        try: s.connect(address); s.send(b'x'); print('out', family, kind)\n"
        "        except OSError: pass\n"
        "print(open('/proc/net/dev').read().count(':'))\n"
    )
    async with await gvisor.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
    assert outcome.stdout == b"1\n"  # loopback is the only device


async def test_MT_01_two_sandboxes_never_share_a_uid(gvisor: GvisorRuntime) -> None:
    async with (
        await gvisor.start(SandboxSpec()) as one,
        await gvisor.start(SandboxSpec()) as two,
    ):
        owners = {uid(one.init), uid(two.init)}
    assert len(owners) == (2 if os.geteuid() == 0 else 1)


async def test_programs_that_ask_for_new_flags_of_statx_work(gvisor: GvisorRuntime) -> None:
    async with await gvisor.start(SandboxSpec()) as sandbox:
        outcome = await bash(sandbox, "ls -l /usr/bin/env && stat -c %F /usr && ls | wc -l")
    assert outcome.stderr == b""
    assert outcome.stdout.splitlines()[1:] == [b"directory", b"0"]
