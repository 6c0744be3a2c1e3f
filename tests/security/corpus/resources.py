"""RX: each limit reached on purpose, while somebody else's sandbox goes on answering."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Awaitable
from pathlib import Path

from mas_sandbox.runtimes.base import Sandbox, SandboxSpec
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

from .ground import Ground, Row, fails, members

MEM_MB, PIDS, DISK_MB, CPUS = 256, 64, 32, 0.5
TIGHT = SandboxSpec(mem_mb=MEM_MB, pids=PIDS, disk_mb=DISK_MB)
OWN_MB = 450  # of a monitor and a kernel, at most; ten times the limit would be 2560


async def beside(
    ground: Ground, call: Awaitable[CallOutcome], sandbox: Sandbox
) -> tuple[CallOutcome | None, int, int]:
    """The call's outcome, None where it cost its sandbox, and the most processes and MiB that
    the host saw of that sandbox meanwhile. A neighbour has to answer every time."""
    running = asyncio.ensure_future(fails(call))
    neighbour = await ground.sandbox()
    processes = memory = 0
    while not running.done():
        try:
            seen = members(sandbox)
        except (FileNotFoundError, ProcessLookupError):
            seen = []
        processes = max(processes, len(seen))
        memory = max(memory, sum(map(_pss_mb, seen)))
        answer = await ground.run(Call("calculator", {"expression": "6 * 7"}), neighbour)
        assert answer.value == 42
        await asyncio.sleep(0.1)
    return await running, processes, memory


def _pss_mb(process: int) -> int:
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(text.partition("\nPss:")[2].split()[0]) // 1024


async def usable(ground: Ground, sandbox: Sandbox) -> None:
    """Either it goes on, or the next one does."""
    if sandbox.channel.lost is not None:
        sandbox = await ground.sandbox(TIGHT)
    assert await ground.alive(sandbox)


async def fork_bomb(ground: Ground) -> None:
    sandbox = await ground.sandbox(TIGHT)
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 1.5; bomb"
    _, processes, _ = await beside(ground, ground.bash(bomb, sandbox, timeout_ms=2500), sandbox)
    assert processes <= {"jail": PIDS + 3, "gvisor": 8 * PIDS, "microvm": 1}[ground.name]
    await usable(ground, sandbox)


async def memory(ground: Ground) -> None:
    # An emulated machine takes its time to fill so much, four times over.
    places = ("anonymous", "/dev/shm", "shared", "children")[: 2 if ground.name == "microvm" else 4]
    for place in places:
        sandbox = await ground.sandbox(TIGHT)
        code = (
            "import mmap\n"
            f"place, most = {place!r}, {10 * MEM_MB}\n"
            "if place == 'anonymous':\n"
            "    kept = [b'x' * (1 << 20) for _ in range(most)]\n"
            "elif place == 'shared':\n"
            "    for kept in [mmap.mmap(-1, 64 << 20) for _ in range(most // 64)]:\n"
            "        for at in range(0, 64 << 20, 4096): kept[at] = 1\n"
            "elif place == 'children':\n"
            "    for _ in range(20):\n"
            "        if os.fork() == 0:\n"
            f"            kept = b'x' * ({MEM_MB // 2} << 20); import time; time.sleep(3); os._exit(0)\n"
            "    print('ended', [os.wait()[1] for _ in range(20)].count(0))\n"
            "    sys.exit()\n"
            "else:\n"
            "    with open(place + '/big', 'wb') as file:\n"
            "        for _ in range(most): file.write(bytes(1 << 20))\n"
            "broke('allocated')\n"
        )
        call = ground.python(code, sandbox, 30_000)
        outcome, _, most = await beside(ground, call, sandbox)
        assert most < MEM_MB + OWN_MB, place
        if outcome is not None:
            assert b"broke" not in outcome.stdout, place
        if sandbox.channel.lost is None:
            await ground.bash("rm -f /dev/shm/big", sandbox)
        await usable(ground, sandbox)


async def processor(ground: Ground) -> None:
    async with ground.fresh(SandboxSpec(cpus=CPUS)) as sandbox:
        before, began = sandbox.cpu_us(), time.monotonic()
        spin = "nice -n -20 timeout 2 sh -c 'while :; do :; done'"
        spinning = ground.bash(f"for i in 1 2 3 4; do {spin} & done; wait", sandbox)
        await beside(ground, spinning, sandbox)
        after, took = sandbox.cpu_us(), time.monotonic() - began
    assert before is not None
    assert after is not None
    assert (after - before) / 1e6 < CPUS * took * 1.25 + 0.3


async def output(ground: Ground) -> None:
    sandbox = await ground.sandbox(TIGHT)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for command in (
        "cat /dev/zero",
        "yes >&2 & cat /dev/zero | tr '\\0' x",
        "yes ''",
    ):
        call = Call("bash", {"command": command}, timeout_ms=30_000, output_bytes=300_000)
        outcome = await ground.run(call, sandbox)
        assert outcome.code is ErrorCode.OUTPUT_LIMIT, command
        assert len(outcome.stdout) + len(outcome.stderr) == 300_000
        assert outcome.truncated
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024  # KiB


async def disk(ground: Ground) -> None:
    sandbox = await ground.sandbox(TIGHT)
    await ground.attempt(
        "RX_05",
        "import shutil\n"
        "for place in ('/workspace', '/tmp'):\n"
        "    path, written = f'{place}/full', 0\n"
        "    with open(path, 'wb', 0) as file:\n"
        "        try:\n"
        f"            while written < {4 * DISK_MB}:\n"
        "                file.write(bytes(1 << 20)); written += 1\n"
        "        except OSError: pass\n"
        f"    if written > {DISK_MB}: broke(place, written)\n"
        "    os.unlink(path)\n"
        "os.mkdir('/workspace/deep'); os.chdir('/workspace/deep')\n"
        "for _ in range(1000):\n"
        "    if quietly(os.mkdir, 'd') is None: pass\n"
        "    if not os.path.isdir('d'): break\n"
        "    os.chdir('d')\n"
        "os.chdir('/workspace')\n"
        "os.mkdir('attributes')\n"
        "for number in range(200):\n"
        "    with open(f'attributes/{number}', 'w') as file: pass\n"
        "    for name in range(4):\n"
        "        quietly(os.setxattr, f'attributes/{number}', f'user.{name}', bytes(60000))\n"
        "shutil.rmtree('attributes')\n",
        sandbox,
    )
    written = await ground.run(Call("write_file", {"path": "after", "content": "x"}), sandbox)
    assert written.code is None
    await ground.bash("rm -rf deep after", sandbox)


async def kernel_objects(ground: Ground) -> None:
    sandbox = await ground.sandbox(TIGHT)
    await ground.attempt(
        "RX_06",
        "import resource, threading\n"
        "def most(make, bound=3000):\n"
        "    kept = []\n"
        "    try:\n"
        "        while len(kept) < bound: kept.append(make())\n"
        "    except (OSError, RuntimeError, MemoryError): pass\n"
        "    for each in kept:\n"
        "        for one in each if isinstance(each, tuple) else (each,):\n"
        "            if isinstance(one, int): quietly(os.close, one)\n"
        "    return len(kept)\n"
        "quietly(resource.setrlimit, resource.RLIMIT_NOFILE, (100000, 100000))\n"
        "if most(lambda: os.dup(0)) > 1024: broke('files')\n"
        "most(os.openpty); most(os.pipe); most(lambda: os.eventfd(0))\n"
        "def watch():\n"
        "    made = libc.inotify_init()\n"
        "    if made < 0: raise OSError\n"
        "    return made\n"
        "most(watch)\n"
        "for make in (lambda: libc.msgget(0, 0o1600), lambda: libc.shmget(0, 4096, 0o1600),\n"
        "             lambda: libc.semget(0, 10, 0o1600)):\n"
        "    for _ in range(3000):\n"
        "        if make() < 0: break\n"
        "space = ctypes.create_string_buffer(8)\n"
        "for _ in range(3000):\n"
        "    if libc.timer_create(1, None, space) < 0: break\n"
        "ready = threading.Event()\n"
        "def thread():\n"
        "    made = threading.Thread(target=ready.wait, daemon=True); made.start(); return made\n"
        f"if most(thread, 500) > {PIDS}: broke('threads')\n"
        "ready.set()\n",
        sandbox,
    )
    # The host has some of each left.
    for descriptor in (*os.openpty(), *os.pipe(), os.eventfd(0)):
        os.close(descriptor)
    for pair in [socket.socketpair() for _ in range(50)]:
        for end in pair:
            end.close()
    await usable(ground, sandbox)


async def no_end(ground: Ground) -> None:
    sandbox = await ground.sandbox()
    for command in ("sleep infinity", "while :; do :; done", "date -s '+1 hour'; sleep 70"):
        began = time.monotonic()
        outcome = await ground.bash(command, sandbox, timeout_ms=500)
        assert outcome.code is ErrorCode.TIMEOUT
        assert time.monotonic() - began < 2.5


async def consoles_and_logs(ground: Ground) -> None:
    """The kernel tells of every crash; that, and what is written to consoles, stays bounded."""
    sandbox = await ground.sandbox()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await ground.attempt(
        "RX_09",
        "import signal\n"
        "for name in ('console', 'kmsg', 'ttyS0', 'tty0', 'tty', 'hvc0'):\n"
        "    opened = quietly(os.open, f'/dev/{name}', os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)\n"
        "    for _ in range(2000) if opened is not None else ():\n"
        "        quietly(os.write, opened, b'flood ' * 150)\n"
        "for _ in range(200):\n"
        "    if os.fork() == 0: ctypes.string_at(0)\n"
        "    os.wait()\n",
        sandbox,
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert await ground.alive(sandbox)


async def many_files(ground: Ground) -> None:
    async with ground.fresh() as sandbox:
        await ground.python(
            "os.mkdir('many')\n"
            "for number in range(3000): os.close(os.open(f'many/{number}', os.O_CREAT))\n"
            "with open('one', 'w') as file: file.write('line\\n' * 200_000)\n"
            "for number in range(1000): os.symlink('../one', f'many/l{number}')\n",
            sandbox,
        )
        for call in (
            Call("list_dir", {"path": "many"}, timeout_ms=30_000),
            Call("glob", {"pattern": "**/*"}, timeout_ms=30_000),
            Call("grep", {"pattern": "line"}, timeout_ms=30_000),
        ):
            began = time.monotonic()
            outcome = await ground.run(call, sandbox)
            assert outcome.code in (None, ErrorCode.OUTPUT_LIMIT, ErrorCode.TOOL_FAILED), call.tool
            assert len(repr(outcome.value)) < 1_500_000
            assert time.monotonic() - began < 25


ROWS = (
    Row("RX_01", "fork bomb", fork_bomb),
    Row("RX_02", "memory", memory),
    Row("RX_03", "processor", processor),
    Row("RX_04", "output", output),
    Row("RX_05", "disk", disk),
    Row("RX_06", "kernel objects", kernel_objects),
    Row("RX_08", "no end", no_end),
    Row("RX_09", "consoles and logs", consoles_and_logs),
    Row("RX_10", "many files", many_files),
)
