"""The jail against a hostile program; what counts is what the host sees.

Names begin with the ids of the security corpus, so that `-k NW_14` runs one.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from census import children, toolrunners
from mas_sandbox.runtimes.base import Runtime, Sandbox, SandboxSpec
from mas_sandbox.runtimes.identity import COUNT, FIRST
from mas_sandbox.runtimes.jail.probe import posture_problem
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.jail.seccomp_rules import RULES, When
from mas_sandbox.runtimes.jail.seccomp_tables import MACHINES
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.messages import Call

pytestmark = pytest.mark.anyio

CANARY = "canary-4f1c9b"


async def python(sandbox: Sandbox, code: str, *, timeout_ms: int = 20_000) -> CallOutcome:
    return await sandbox.run(Call("python", {"code": code}, timeout_ms=timeout_ms))


async def bash(sandbox: Sandbox, command: str) -> CallOutcome:
    return await sandbox.run(Call("bash", {"command": command}, timeout_ms=20_000))


async def test_FS_01_a_host_file_cannot_be_read(jail: Runtime, tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    sentinel.write_text(CANARY)
    sentinel.chmod(0o644)
    for directory in (tmp_path, *tmp_path.parents[:-2]):
        directory.chmod(directory.stat().st_mode | 0o055)
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await bash(
            sandbox, f"cat {sentinel}; cat /proc/1/root{sentinel}; ls -d /root /home /var"
        )
        read = await sandbox.run(Call("read_file", {"path": str(sentinel)}))
    assert CANARY.encode() not in outcome.stdout + outcome.stderr
    assert outcome.stdout == b""
    assert not read.has_value


async def test_FS_08_nothing_of_the_host_can_be_written(jail: Runtime) -> None:
    before = os.stat("/usr").st_mtime_ns
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await bash(
            sandbox,
            "for p in /x /usr/x /etc/x /run/x /dev/x /usr/bin/x /run/mas/toolrunner.pyz; do"
            " (echo y > $p) 2>/dev/null && echo wrote $p; done; mount -o remount,rw /usr && echo rw",
        )
    assert outcome.stdout == b""
    assert os.stat("/usr").st_mtime_ns == before


async def test_FS_11_magic_links_lead_nowhere_on_the_host(jail: Runtime) -> None:
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await bash(
            sandbox,
            "for l in /proc/[0-9]*/root /proc/[0-9]*/cwd /proc/self/fd/*; do"
            " ls $l/root/ $l/home/ 2>/dev/null; done",
        )
    assert outcome.stdout == b""


async def test_FS_12_kernel_settings_cannot_be_written(jail: Runtime) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await bash(
            sandbox,
            "for p in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/sys/vm/drop_caches;"
            " do (echo x > $p) 2>/dev/null && echo wrote $p; done;"
            " find / -name release_agent -writable 2>/dev/null",
        )
    assert outcome.stdout == b""
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


async def test_PR_01_posture_as_the_host_sees_it(jail: Runtime) -> None:
    async with await jail.start(SandboxSpec()) as sandbox:
        assert isinstance(sandbox, JailSandbox)
        call = asyncio.create_task(bash(sandbox, "sleep 2"))
        await asyncio.sleep(0.3)
        assert posture_problem(sandbox.init) == ""
        (toolrunner,) = toolrunners(sandbox)
        (main,) = children(toolrunner)
        for process in (sandbox.init, toolrunner, main):
            status = Path(f"/proc/{process}/status").read_text()
            uid = int(status.partition("Uid:\t")[2].split("\t")[0])
            assert uid != 0
            if os.geteuid() == 0:
                assert FIRST <= uid < FIRST + COUNT
            assert "NoNewPrivs:\t1" in status
            assert "Seccomp:\t2" in status
            assert "CapEff:\t0000000000000000" in status
            assert "CapBnd:\t0000000000000000" in status
        call.cancel()


async def test_MT_01_two_jails_never_share_a_uid(jail: Runtime) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give each jail a uid of its own")
    async with await jail.start(SandboxSpec()) as one, await jail.start(SandboxSpec()) as two:
        assert isinstance(one, JailSandbox)
        assert isinstance(two, JailSandbox)
        owners = {os.stat(f"/proc/{each.init}").st_uid for each in (one, two)}
        assert len(owners) == 2


async def test_PR_02_the_daemons_environment_is_nowhere(
    jail: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_DAEMON", CANARY)
    async with await jail.start(SandboxSpec()) as sandbox:
        assert isinstance(sandbox, JailSandbox)
        outcome = await bash(sandbox, "env; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline")
        for process in (sandbox.init, *children(sandbox.init)):
            assert CANARY.encode() not in Path(f"/proc/{process}/environ").read_bytes()
    assert CANARY.encode() not in outcome.stdout


async def test_PR_03_no_descriptor_of_the_daemon_comes_in(jail: Runtime, tmp_path: Path) -> None:
    with (tmp_path / "open-in-the-daemon").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        async with await jail.start(SandboxSpec()) as sandbox:
            assert isinstance(sandbox, JailSandbox)
            for process in (sandbox.init, *children(sandbox.init)):
                targets = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{process}/fd")]
                assert not [target for target in targets if "open-in-the-daemon" in target]


async def test_PR_05_the_toolrunner_cannot_be_traced_read_or_signalled(jail: Runtime) -> None:
    code = (
        "import os, signal\n"
        "parent = os.getppid()\n"
        "for what in ('fd', 'mem', 'environ', 'root', 'cwd', 'maps'):\n"
        "    try:\n"
        "        path = f'/proc/{parent}/{what}'\n"
        "        print(what, os.listdir(path) if what in ('fd', 'root', 'cwd') else open(path).read(1))\n"
        "    except OSError: pass\n"
        "for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM):\n"
        "    try: os.kill(parent, number); print('signalled', number)\n"
        "    except PermissionError: pass\n"
    )
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
        assert outcome.stdout == b"", outcome.stdout
        assert (await bash(sandbox, "echo alive")).stdout == b"alive\n"


async def test_PR_13_host_processes_are_invisible(jail: Runtime) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        async with await jail.start(SandboxSpec()) as sandbox:
            outcome = await bash(sandbox, f"kill -9 {victim.pid}; ls /proc; kill -9 -1")
        assert b"1" in outcome.stdout.split()
        assert str(os.getpid()).encode() not in outcome.stdout.split()
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


_ALLOWED = {
    # name: arguments under which a rule that looks at them must let the call through
    "clone": None,  # every fork of the test goes through it
    "unshare": (0,),
    "socket": (1, 1, 0),
    "socketpair": None,
    "ioctl": (0, 0x5401, 0),
    "personality": (0xFFFFFFFF,),
    "mknod": None,
    "mknodat": None,
}
_REFUSED = {
    When.NEW_NAMESPACE: [(flag,) for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000)],
    When.SOCKET_FAMILY: [(40, 1, 0), (38, 5, 0), (17, 3, 0), (44, 3, 0), (2, 3, 1), (16, 3, 9)],
    When.SOCKETPAIR_FAMILY: [(40, 1, 0), (30, 1, 0)],
    When.TERMINAL_INJECTION: [(0, 0x5412, 0), (0, 0x541C, 0), (0, 0x100005412, 0)],
    When.PERSONA: [(0x0040000,), (8,)],
    When.DEVICE_NODE: [(0, 0o020600, 0)],
    When.DEVICE_NODE_AT: [(0, 0, 0o060600, 0)],
}


async def test_KS_06_every_refused_system_call_is_refused_in_every_thread(jail: Runtime) -> None:
    machine = MACHINES[os.uname().machine]
    attempts = [
        (name, machine.numbers[name], arguments, rule.error)
        for rule in RULES
        for name in rule.names
        if name in machine.numbers
        for arguments in ([()] if rule.when is When.ALWAYS else _REFUSED[rule.when])
    ]
    code = (
        "import ctypes, json, sys, threading\n"
        f"attempts = {attempts!r}\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def run():\n"
        "    wrong = []\n"
        "    for name, number, arguments, error in attempts:\n"
        "        padded = [ctypes.c_ulong(a) for a in (*arguments, *(0,) * (6 - len(arguments)))]\n"
        "        ctypes.set_errno(0)\n"
        "        result = libc.syscall(ctypes.c_long(number), *padded)\n"
        "        if result != -1 or ctypes.get_errno() != error:\n"
        "            wrong.append((name, arguments, result, ctypes.get_errno()))\n"
        "    print(json.dumps(wrong), flush=True)\n"
        "run()\n"
        "thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        "ctypes.set_errno(0)\n"
        "print(libc.syscall(ctypes.c_long(5000), 0), ctypes.get_errno())\n"
    )
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
    main_thread, second_thread, unknown = outcome.stdout.decode().splitlines()
    assert json.loads(main_thread) == []
    assert json.loads(second_thread) == []
    assert unknown == f"-1 {errno.ENOSYS}"
    assert len(attempts) > 60


async def test_KS_06_what_a_rule_need_not_refuse_still_works(jail: Runtime) -> None:
    code = (
        "import os, socket, subprocess, tempfile, threading\n"
        "socket.socket(socket.AF_UNIX); socket.socket(socket.AF_INET); socket.socketpair()\n"
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW & 0 | socket.SOCK_DGRAM, 0)\n"
        "os.mkfifo('/tmp/fifo'); os.openpty(); subprocess.run(['true'], check=True)\n"
        "import multiprocessing; p = multiprocessing.get_context('fork').Pool(2)\n"
        "print(p.map(abs, [-1, -2]))\n"
    )
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
    assert outcome.stdout == b"[1, 2]\n", outcome.stderr


async def test_KS_06_a_32_bit_system_call_ends_the_process(jail: Runtime) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("int 0x80 is x86")
    # mov eax, 20 (getpid); int 0x80; ret
    code = (
        "import ctypes, mmap\n"
        "memory = mmap.mmap(-1, 4096, prot=7)\n"
        "memory.write(bytes([0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3]))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "print('pid', ctypes.CFUNCTYPE(ctypes.c_int)(address)())\n"
    )
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
    assert outcome.stdout == b""
    assert outcome.exit_code == 128 + 31  # SIGSYS


async def test_NW_01_there_is_no_way_out(jail: Runtime) -> None:
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
    async with await jail.start(SandboxSpec()) as sandbox:
        outcome = await python(sandbox, code)
    assert outcome.stdout == b"1\n"  # loopback is the only device


@contextmanager
def listener(server: socket.socket) -> Iterator[list[int]]:
    """Counts who connects."""
    accepted: list[int] = []
    server.listen()

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            accepted.append(1)
            connection.close()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield accepted
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()


async def test_NW_14_host_sockets_are_out_of_reach(jail: Runtime, tmp_path: Path) -> None:
    name = f"\0mas-sandbox-test-{os.getpid()}"
    by_name = socket.socket(socket.AF_UNIX)
    by_name.bind(name)
    by_path = socket.socket(socket.AF_UNIX)
    by_path.bind(str(tmp_path / "s"))
    by_port = socket.socket()
    by_port.bind(("127.0.0.1", 0))
    port = by_port.getsockname()[1]
    code = (
        "import socket\n"
        f"for family, address in ((1, {name!r}), (1, {str(tmp_path / 's')!r}),"
        f" (2, ('127.0.0.1', {port}))):\n"
        "    s = socket.socket(family)\n"
        "    try: s.connect(address); print('connected', address)\n"
        "    except OSError: pass\n"
    )
    with listener(by_name) as one, listener(by_path) as two, listener(by_port) as three:
        check = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert check.stdout.count(b"connected") == 3  # the host itself can
        await asyncio.sleep(0.1)
        seen = (len(one), len(two), len(three))
        async with await jail.start(SandboxSpec()) as sandbox:
            outcome = await python(sandbox, code)
        assert outcome.stdout == b"", outcome.stdout
        await asyncio.sleep(0.1)
        assert (len(one), len(two), len(three)) == seen
