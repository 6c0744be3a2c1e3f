"""PR: privileges, other processes, and calls that will not end."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from census import commands
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.identity import COUNT, FIRST
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

from .ground import Ground, Row, fails, members

GRACE_S = 2.0  # what a deadline may be late, by the corpus
_SPY = "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline /proc/[0-9]*/task/*/environ; env; ulimit -c"


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def privileges(ground: Ground) -> None:
    """Inside nothing is held; outside nothing of it is the host's root."""
    await ground.attempt(
        "PR_01",
        "status = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines())\n"
        "for name in ('CapEff', 'CapPrm', 'CapInh', 'CapBnd', 'CapAmb'):\n"
        "    if int(status.get(name, '0'), 16): broke(name)\n"
        "if status.get('NoNewPrivs', '').strip() != '1': broke('NoNewPrivs')\n"
        "if status.get('Seccomp', '').strip() != '2': broke('Seccomp')\n"
        "if os.getuid() == 0 or os.getgroups() not in ([], [os.getgid()]): broke('identity')\n"
        "for name in ('uid_map', 'gid_map'):\n"
        "    if quietly(os.open, f'/proc/self/{name}', os.O_WRONLY) is not None: broke(name)\n",
    )
    for process in members(await ground.sandbox()):
        seen = status(process)
        assert "0" not in seen["Uid"].split(), process
        assert "0" not in seen["Gid"].split(), process
        if os.geteuid() == 0:
            assert FIRST <= int(seen["Uid"].split()[0]) < FIRST + COUNT


async def environment_of_the_daemon(ground: Ground) -> None:
    async with ground.fresh() as sandbox:
        outcome = await ground.bash(f"{_SPY}; kill -SEGV $$", sandbox)
        assert outcome.stdout.splitlines()[-1] == b"0", "a crash may leave a core"
        for process in members(sandbox):
            for name in ("environ", "cmdline"):
                content = Path(f"/proc/{process}/{name}").read_bytes()
                assert ground.stage.secret.encode() not in content


async def inherited_descriptors(ground: Ground) -> None:
    with ground.stage.sentinel.open() as file:
        os.set_inheritable(file.fileno(), True)
        try:
            async with ground.fresh() as sandbox:
                outcome = await ground.python(
                    "print(sorted(int(n) for n in os.listdir('/proc/self/fd')))\n"
                    "for n in range(3, 256):\n"
                    "    if quietly(os.fstat, n) is not None: broke(n, os.read(n, 100))\n",
                    sandbox,
                )
                assert outcome.stdout == b"[0, 1, 2, 3]\n", outcome.stdout  # 3 is the listing
                for process in members(sandbox):
                    opened = [os.readlink(each) for each in Path(f"/proc/{process}/fd").iterdir()]
                    assert str(ground.stage.sentinel) not in opened
                    assert not [each for each in opened if each.endswith("audit.jsonl")]
        finally:
            os.set_inheritable(file.fileno(), False)


async def gaining_privileges(ground: Ground) -> None:
    await ground.attempt(
        "PR_04",
        "import shutil, subprocess\n"
        "for act in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]),\n"
        "            lambda: os.setresuid(0, 0, 0)):\n"
        "    try: act(); broke('became root')\n"
        "    except OSError: pass\n"
        "shutil.copy('/usr/bin/id', 'id'); os.chmod('id', 0o6755)\n"
        "commands = [['./id'], ['/bin/su', '-c', 'id'], ['sudo', '-n', 'id'], ['/usr/bin/newgrp'],\n"
        "            ['/bin/mount', '-t', 'tmpfs', 'none', '/mnt'], ['setcap', 'cap_sys_admin+ep', './id']]\n"
        "for command in commands:\n"
        "    try: done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=20)\n"
        "    except OSError: continue\n"
        "    if b'uid=0' in done.stdout or (command[0] in ('/bin/mount', 'setcap') and not done.returncode):\n"
        "        broke(command)\n",
    )


async def reading_other_processes(ground: Ground) -> None:
    """The toolrunner, and the first process, whatever it is."""
    sandbox = await ground.sandbox()
    await ground.attempt(
        "PR_05",
        "import signal\n"
        "space = ctypes.create_string_buffer(64)\n"
        "import struct\n"
        "for target in {1, os.getppid()} - {os.getpid()}:\n"
        "    local = struct.pack('QQ', ctypes.addressof(space), 8)\n"
        "    for at in (0x400000, 0x555555554000):\n"
        "        if system('process_vm_readv', target, local, 1, struct.pack('QQ', at, 8), 1, 0) > 0:\n"
        "            broke('read memory of', target)\n"
        "    if system('kcmp', os.getpid(), target, 2, 0, 0) >= 0: broke('kcmp', target)\n"
        "    handle = quietly(os.pidfd_open, target)\n"
        "    for number in range(8) if handle is not None else ():\n"
        "        if system('pidfd_getfd', handle, number, 0) >= 0: broke('descriptor', number, target)\n"
        "    for name in ('mem', 'environ'):\n"
        "        opened = quietly(os.open, f'/proc/{target}/{name}', os.O_RDWR if name == 'mem' else 0)\n"
        "        if name == 'mem' and opened is not None: broke('mem', target)\n"
        "    if system('ptrace', 0x4206, target, 0, 0) == 0: broke('traced', target)\n"
        "    if system('ptrace', 16, target, 0, 0) == 0: broke('attached', target)\n",
        sandbox,
    )
    assert await ground.alive(sandbox)


async def new_namespaces(ground: Ground) -> None:
    await ground.attempt(
        "PR_06",
        "for name, flag in {'user': 0x10000000, 'mnt': 0x20000, 'net': 0x40000000,\n"
        "                   'user and net': 0x50000000}.items():\n"
        "    for how in ('unshare', 'clone', 'clone3'):\n"
        "        child = os.fork()\n"
        "        if child:\n"
        "            if os.waitpid(child, 0)[1] == 256: broke(how, name)\n"
        "            continue\n"
        "        words = flag.to_bytes(8, 'little').ljust(88, b'\\0')\n"
        "        made = (libc.unshare(flag) if how == 'unshare' else\n"
        "                system('clone', flag | 17, 0, 0, 0, 0) if how == 'clone' else\n"
        "                system('clone3', words, 88))\n"
        "        os._exit(1 if made >= 0 else 0)\n",
    )


async def joining_namespaces(ground: Ground) -> None:
    await ground.attempt(
        "PR_07",
        "import glob\n"
        "for path in glob.glob('/proc/[0-9]*/ns/*'):\n"
        "    opened = quietly(os.open, path, os.O_RDONLY)\n"
        "    if opened is not None and system('setns', opened, 0) == 0: broke(path)\n",
    )


async def mounting(ground: Ground) -> None:
    mark = f"corpus-{secrets.token_hex(4)}".encode()
    await ground.attempt(
        "PR_08",
        f"mark = {mark!r}\n"
        "os.makedirs('here', exist_ok=True)\n"
        "attempts = {\n"
        "    'tmpfs': lambda: libc.mount(mark, b'here', b'tmpfs', 0, None),\n"
        "    'proc': lambda: libc.mount(mark, b'here', b'proc', 0, None),\n"
        "    'bind': lambda: libc.mount(b'/', b'here', None, 4096, None),\n"
        "    'umount': lambda: libc.umount2(b'/proc', 2),\n"
        "    'fsopen': lambda: system('fsopen', b'tmpfs', 0),\n"
        "    'fspick': lambda: system('fspick', -100, b'/', 0),\n"
        "    'open_tree': lambda: system('open_tree', -100, b'/', 1),\n"
        "    'mount_setattr': lambda: system('mount_setattr', -100, b'/', 0, bytes(32), 32),\n"
        "    'pivot_root': lambda: system('pivot_root', b'.', b'here'),\n"
        "    'chroot': lambda: libc.chroot(b'here'),\n"
        "}\n"
        "for name, act in attempts.items():\n"
        "    if act() >= 0: broke(name)\n",
    )
    assert mark not in Path("/proc/self/mountinfo").read_bytes()


def _left(mark: str) -> list[str]:
    return [command for command in commands().values() if mark in command]


async def _inside(ground: Ground, mark: str) -> int:
    """How many processes of a sandbox have this in their command line."""
    pattern = f"[{mark[0]}]{mark[1:]}"
    listing = "for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done"
    return int((await ground.bash(f"({listing}) 2>/dev/null | grep -c '{pattern}'")).stdout)


async def outliving_a_call(ground: Ground) -> None:
    mark = f"sleep 81.{secrets.randbelow(10**6):06}"
    outcome = await ground.bash(
        f"(setsid sh -c '(setsid {mark} <&- >&- 2>&-) & {mark}' <&- >&- 2>&- &) ; sleep 0.3; echo x"
    )
    assert outcome.stdout == b"x\n"
    assert await _inside(ground, mark) == 0
    assert _left(mark) == []


async def ignoring_signals(ground: Ground) -> None:
    mark = f"sleep 82.{secrets.randbelow(10**6):06}"
    deaf = "trap '' TERM HUP INT QUIT USR1 PIPE"
    sandbox = await ground.sandbox()
    began = time.monotonic()
    outcome = await ground.bash(
        f'{deaf}; (setsid sh -c "{deaf}; while :; do {mark}; done" &); while :; do {mark}; done',
        sandbox,
        timeout_ms=800,
    )
    assert outcome.code is ErrorCode.TIMEOUT
    assert time.monotonic() - began < 0.8 + GRACE_S
    assert await _inside(ground, mark) == 0
    assert _left(mark) == []


async def a_storm_of_forks(ground: Ground) -> None:
    mark = f"sleep 83.{secrets.randbelow(10**6):06}"
    async with ground.fresh(SandboxSpec(pids=48)) as sandbox:
        await fails(
            ground.bash(
                "storm() { while :; do (storm) & done; }; storm 2>/dev/null &"
                f" for i in $(seq 15); do (kill -STOP $BASHPID; {mark}) & done; {mark}",
                sandbox,
                timeout_ms=1500,
            )
        )
        if sandbox.channel.lost is None:
            assert await ground.alive(sandbox)
        processes = _started(members(sandbox))
    assert _left(mark) == []
    assert _started(list(processes)).items() & processes.items() == set()


def _started(processes: list[int]) -> dict[int, str]:
    """When each of those that run was started, in ticks: a number may be taken again."""
    found = {}
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX":
                found[process] = fields[19]
    return found


async def a_pipe_held_open(ground: Ground) -> None:
    began = time.monotonic()
    outcome = await ground.bash("(setsid sleep 84 &) ; sleep 85 & echo done")
    assert outcome.stdout == b"done\n"
    assert time.monotonic() - began < 5


async def signals_to_the_host(ground: Ground) -> None:
    sandbox = await ground.sandbox()
    victim = ground.stage.victim.pid
    outcome = await ground.python(
        "import signal\n"
        f"for target in ({victim}, {victim + 1}, -{victim}):\n"
        "    quietly(os.kill, target, signal.SIGKILL)\n"
        f"handle = quietly(os.pidfd_open, {victim})\n"
        "print(open('/proc/self/status').read())\n"
        "quietly(os.kill, -1, signal.SIGKILL)\n",
        sandbox,
    )
    assert ground.stage.secret.encode() not in outcome.stdout
    assert await ground.alive(sandbox)


async def typing_into_terminals(ground: Ground) -> None:
    """Whatever terminal there is, none of it is one that somebody of the host's reads."""
    await ground.attempt(
        "PR_14",
        "for name in (0, 1, 2, '/dev/tty', '/dev/console', '/dev/tty0', '/dev/ttyS0', '/dev/hvc0'):\n"
        "    opened = name if isinstance(name, int) else quietly(os.open, name, os.O_RDWR | os.O_NOCTTY)\n"
        "    if opened is None: continue\n"
        "    if os.isatty(opened): broke('terminal', name)\n"
        "    for request in (0x5412, 0x541C, 0x100005412, 0x100000000541C):\n"
        "        for space in (b'x', b'\\x02'):\n"
        "            if system(16 if os.uname().machine == 'x86_64' else 29, opened, request, space) == 0:\n"
        "                broke(name, hex(request))\n",
    )


async def interrupted_while_it_holds_on(ground: Ground) -> None:
    """A call that ends while its sandbox is stopped leaves nothing of either."""
    mark = f"sleep 86.{secrets.randbelow(10**6):06}"
    async with ground.fresh() as sandbox:
        call = asyncio.create_task(
            fails(ground.run(Call("bash", {"command": f"{mark} & {mark}"}), sandbox))
        )
        await asyncio.sleep(0.5)
        processes = _started(members(sandbox))
    await call
    assert _left(mark) == []
    assert _started(list(processes)).items() & processes.items() == set()


ROWS = (
    Row("PR_01", "privileges", privileges),
    Row("PR_02", "environment of the daemon", environment_of_the_daemon),
    Row("PR_03", "inherited descriptors", inherited_descriptors),
    Row("PR_04", "gaining privileges", gaining_privileges),
    Row("PR_05", "reading other processes", reading_other_processes),
    Row("PR_06", "new namespaces", new_namespaces),
    Row("PR_07", "joining namespaces", joining_namespaces),
    Row("PR_08", "mounting", mounting),
    Row("PR_09", "outliving a call", outliving_a_call),
    Row("PR_10", "ignoring signals", ignoring_signals),
    Row("PR_11", "a storm of forks", a_storm_of_forks),
    Row("PR_11", "a call in a stopped sandbox", interrupted_while_it_holds_on),
    Row("PR_12", "a pipe held open", a_pipe_held_open),
    Row("PR_13", "signals to the host", signals_to_the_host),
    Row("PR_14", "typing into terminals", typing_into_terminals),
)
