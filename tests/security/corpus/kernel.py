"""KS: what is asked of the kernel, whichever it is."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.runtimes.gvisor.posture import posture_problem as gvisor_problem
from mas_sandbox.runtimes.gvisor.runtime import GvisorSandbox
from mas_sandbox.runtimes.jail.probe import posture_problem as jail_problem
from mas_sandbox.runtimes.jail.runtime import JailSandbox

from ..posture import seen
from ..posture.golden import described, differences
from ..posture.inside import look
from ..posture.parts import description_of, parts
from ..posture.seen import Posture
from .ground import Ground, Row, fails

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
_EACH = "for name, arguments in attempts:\n    if system(name, *arguments) >= 0: broke(name, arguments)\n"


def calls(id: str, title: str, attempts: str, prepare: str = "") -> Row:
    """A row of system calls: `attempts` is a list of (name, arguments), as Python."""

    async def act(ground: Ground) -> None:
        await ground.attempt(id, f"{prepare}\nattempts = {attempts}\n{_EACH}")

    return Row(id, title, act)


async def keyrings(ground: Ground) -> None:
    """What one sandbox puts into a keyring is not there for another, nor on the host."""
    mark = f"corpus-{secrets.token_hex(4)}"
    code = (
        f"mark = {mark!r}.encode()\n"
        "rings = (-1, -2, -3, -4, -5)\n"
        "for ring in rings:\n"
        "    made = system('add_key', b'user', mark, mark, len(mark), ring)\n"
        "    if made > 0: system('keyctl', 5, made, 0x3f3f3f3f); print('made')\n"
    )
    find = (
        f"mark = {mark!r}.encode()\n"
        "for ring in (-1, -2, -3, -4, -5):\n"
        "    if system('keyctl', 10, ring, b'user', mark, 0) > 0: broke('found in', ring)\n"
        "if system('request_key', b'user', mark, None or 0, 0) > 0: broke('requested')\n"
        f"if {mark!r} in (open('/proc/keys').read() if os.path.exists('/proc/keys') else ''): broke('listed')\n"
    )
    async with ground.fresh() as first, ground.fresh() as second:
        await ground.python(code, first)
        await ground.attempt("KS_03", find, second)
        assert mark not in Path("/proc/keys").read_text()


async def other_doors(ground: Ground) -> None:
    """By x32, by int 0x80, from a second thread: refused, ended or answered by a kernel of its own."""
    if os.uname().machine != "x86_64":
        return
    code = (
        "import mmap, threading\n"
        "def run():\n"
        "    for name in ('unshare', 'mount', 'ptrace', 'bpf', 'setns', 'keyctl'):\n"
        "        if system(0x40000000 | NUMBERS[name], 0, 0, 0, 0) >= 0: broke('x32', name)\n"
        "run(); thread = threading.Thread(target=run); thread.start(); thread.join()\n"
        "print('tried', flush=True)\n"
        "memory = mmap.mmap(-1, 4096, prot=7)\n"
        # mov eax, 310 (unshare of i386); mov ebx, CLONE_NEWUSER; int 0x80; ret
        "memory.write(bytes([0xb8, 0x36, 1, 0, 0, 0xbb, 0, 0, 0, 0x10, 0xcd, 0x80, 0xc3]))\n"
        "address = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "if ctypes.CFUNCTYPE(ctypes.c_int)(address)() >= 0: broke('int 0x80')\n"
    )
    async with ground.fresh() as sandbox:
        outcome = await fails(ground.python(code, sandbox))
        if outcome is not None:
            assert b"tried" in outcome.stdout, outcome.stderr
            assert b"broke" not in outcome.stdout or ground.name == "microvm"
    if ground.name == "jail":
        assert outcome is not None
        assert outcome.exit_code == 128 + 31  # SIGSYS


_FUZZ = """
import random, signal
random.seed({seed})
# What ends, forks, waits, sends signals or puts off the alarm would only make this shorter.
avoid = {{13, 14, 15, 34, 35, 36, 37, 38, 56, 57, 58, 60, 61, 62, 128, 130, 200, 219, 223, 230, 231}}
avoid |= {{234, 247, 424, 435}}
values = [0, 1, 2, -1, -100, 4096, 1 << 31, (1 << 63) - 1, 0x41414141, 7, 0xffff]
page = ctypes.create_string_buffer(random.randbytes(4096), 4096)
done = 0
while done < {count}:
    child = os.fork()
    if child == 0:
        os.closerange(1, 64)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        random.seed(done * 7919 + {seed})
        for _ in range(100):
            number = random.randrange(0, 470)
            if number in avoid: continue
            words = [random.choice(values + [ctypes.addressof(page)] * 4) for _ in range(6)]
            libc.syscall(ctypes.c_long(number), *[ctypes.c_long(w) for w in words])
        os._exit(0)
    try: os.waitpid(child, 0)
    except OSError: pass
    done += 100
print('tried', flush=True)
"""


async def garbage(ground: Ground) -> None:
    """Random numbers with random arguments: the host stays as it was, and so do the walls."""
    async with ground.fresh() as sandbox:
        seed = secrets.randbelow(10**6)
        outcome = await fails(ground.python(_FUZZ.format(seed=seed, count=6000), sandbox))
        problem = ""
        if sandbox.channel.lost is None:
            assert outcome is not None
            match sandbox:
                case JailSandbox():
                    problem = jail_problem(sandbox.init)
                case GvisorSandbox():
                    problem = gvisor_problem(sandbox.init)
        assert problem == "", f"{problem}; the seed was {seed}"
    async with ground.fresh() as sandbox:
        assert await ground.alive(sandbox)


async def devices(ground: Ground) -> None:
    await ground.attempt(
        "KS_08",
        "import stat\n"
        "for name in ('mem', 'kmem', 'port', 'kmsg', 'kvm', 'fuse', 'net/tun', 'vsock', 'vhost-vsock',"
        " 'loop-control', 'loop0', 'vda', 'sda', 'nvme0n1', 'dri/card0', 'snapshot', 'userfaultfd'):\n"
        "    for mode in (os.O_RDONLY, os.O_RDWR):\n"
        "        if quietly(os.open, f'/dev/{name}', mode | os.O_NONBLOCK) is not None: broke(name)\n"
        "for kind, number in ((stat.S_IFCHR, (1, 1)), (stat.S_IFBLK, (254, 0)), (stat.S_IFCHR, (1, 3))):\n"
        "    for place in ('.', '/tmp', '/dev/shm', '/dev'):\n"
        "        try: os.mknod(f'{place}/node', kind | 0o666, os.makedev(*number)); broke('mknod', place)\n"
        "        except OSError: pass\n",
    )


async def posture(ground: Ground) -> None:
    """Every thread of every process is as described, when idle and while a call runs; and so
    are a call and its toolrunner by what they see themselves."""
    async with ground.fresh() as sandbox:
        name = description_of(sandbox, ground.name)
        alike(name, {part: [one] for part, one in (await look(sandbox)).items()})
        waiting = await idle(sandbox, name)
        assert ("spare" in waiting) == ("spare" in seen_outside(name))
        alike(name, waiting)
        call = asyncio.create_task(ground.bash("touch runs; sleep 30", sandbox))
        await ground.bash("until [ -e runs ]; do sleep 0.01; done", sandbox)
        busy = parts(sandbox)
        alike(name, {part: postures(found) for part, found in busy.items()})
        assert busy.keys() == {each for each in seen_outside(name) if each != "spare"}
        call.cancel()
        await asyncio.wait({call})


async def idle(sandbox: Sandbox, name: str) -> dict[str, list[Posture]]:
    """Of its parts, once what waits for the next call has become what it is to be."""
    until = time.monotonic() + 10
    while True:
        found = {part: postures(processes) for part, processes in parts(sandbox).items()}
        waits = [differences(name, "spare", each) for each in found.get("spare", [])]
        if waits == [{}] or "spare" not in seen_outside(name) or until < time.monotonic():
            return found
        await asyncio.sleep(0.01)


def seen_outside(name: str) -> set[str]:
    return {part for part in described(name) if "inside" not in part}


def postures(processes: list[int]) -> list[Posture]:
    """Of those that are still there."""
    found = []
    for process in processes:
        with suppress(FileNotFoundError, ProcessLookupError):
            found.append(seen.posture(process))
    return found


def alike(runtime: str, found: dict[str, list[Posture]]) -> None:
    for part, each in found.items():
        for one in each:
            assert differences(runtime, part, one) == {}, part


ROWS = (
    calls(
        "KS_01",
        "io_uring",
        "[('io_uring_setup', (1, ctypes.create_string_buffer(256))),"
        " ('io_uring_enter', (0, 1, 0, 0, 0)), ('io_uring_register', (0, 0, 0, 0))]",
    ),
    calls(
        "KS_02",
        "programs in the kernel",
        "[('bpf', (0, ctypes.create_string_buffer(128), 128)),"
        " ('bpf', (5, ctypes.create_string_buffer(128), 128)),"
        " ('perf_event_open', (ctypes.create_string_buffer((1).to_bytes(4, 'little')"
        " + (112).to_bytes(4, 'little') + bytes(104), 112), 0, -1, -1, 0)),"
        " ('userfaultfd', (0,)), ('userfaultfd', (1,))]",
    ),
    Row("KS_03", "keyrings", keyrings),
    calls(
        "KS_04",
        "administration of the machine",
        "[('init_module', (b'x' * 64, 64, b'')), ('finit_module', (0, b'', 0)),"
        " ('delete_module', (b'corpus', 0)), ('kexec_load', (0, 0, 0, 0)),"
        " ('quotactl', (0x800700, 0, 0, 0)), ('acct', (b'/nonexistent',)),"
        " ('swapon', (b'/nonexistent', 0)), ('syslog', (3, page, 4096)), ('syslog', (10, 0, 0))]",
        "page = ctypes.create_string_buffer(4096)",
    ),
    calls(
        "KS_05",
        "sockets of other families",
        "[('socket', each) for each in ((38, 5, 0), (40, 1, 0), (17, 3, 0x300), (17, 2, 0x300),"
        " (15, 3, 2), (44, 3, 0), (2, 3, 1), (2, 3, 255), (10, 3, 58), (16, 3, 9), (16, 3, 12),"
        " (16, 3, 15), (31, 3, 1), (29, 3, 1))]",
    ),
    Row("KS_06", "other doors", other_doors),
    calls(
        "KS_07",
        "clock and name",
        # The time it has, and the name: nobody would notice them on a host that took them.
        "[('clock_settime', (0, now)), ('settimeofday', (now, 0)), ('sethostname', (name, len(name))),"
        " ('setdomainname', (b'(none)', 6)), ('adjtimex', (bytes([1]) + bytes(207),))]",
        "import struct, time\nnow = struct.pack('qq', int(time.time()), 0)\nname = os.uname().nodename.encode()",
    ),
    Row("KS_08", "devices", devices),
    calls(
        "KS_09",
        "files by handle",
        "[('name_to_handle_at', (-100, b'/usr', handle, mount, 0)),"
        " ('open_by_handle_at', (os.open('/usr', 0), handle, 0))]",
        "handle = ctypes.create_string_buffer((128).to_bytes(4, 'little') + bytes(136), 140)\n"
        "mount = ctypes.create_string_buffer(4)",
    ),
    Row("KS_10", "garbage", garbage),
    Row("KS_12", "posture as the host sees it", posture),
)
