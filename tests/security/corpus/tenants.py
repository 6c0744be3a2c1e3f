"""MT and AP: sandboxes beside each other, one after another, and the channel of each."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

from mas_sandbox.runtimes.base import Sandbox

from .ground import Ground, Row, members
from .kernel import NAMESPACES

_LEAVE = """
import glob
for place in ('/workspace', '/tmp', '/dev/shm', '/var/tmp', '/run', '/home', '/'):
    for name in ('residue', '.residue'):
        made = quietly(os.open, f'{place}/{name}-' + mark, os.O_CREAT | os.O_WRONLY, 0o777)
        if made is not None: os.write(made, mark.encode())
"""
_LOOK = """
import re
found = []
for place in ('/workspace', '/tmp', '/dev/shm', '/var', '/run', '/home', '/proc/self', '/proc/1'):
    for at, directories, names in os.walk(place):
        if at.count('/') > 4: directories.clear()
        for name in names:
            if mark in name: broke('name', at, name)
            opened = quietly(os.open, f'{at}/{name}', os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            if opened is not None:
                if mark.encode() in (quietly(os.read, opened, 65536) or b''): broke('content', at, name)
                os.close(opened)
"""


async def neighbours_files(ground: Ground) -> None:
    # The second half alone is looked for: the first is not in the looker's own memory.
    mark = secrets.token_hex(8)
    async with ground.fresh() as first, ground.fresh() as second:
        await ground.python(f"mark = {mark!r}\n{_LEAVE}", first)
        half = f"mark = ''.join(reversed({mark[::-1]!r}))\n"
        await ground.attempt("MT_01", half + _LOOK, second)
        if os.geteuid() == 0:
            owners = [Path(f"/proc/{members(each)[0]}").stat().st_uid for each in (first, second)]
            assert owners[0] != owners[1]


async def neighbours_objects(ground: Ground) -> None:
    mark = f"9{secrets.randbelow(10**7):07}"
    async with ground.fresh() as first, ground.fresh() as second:
        holding = asyncio.create_task(_hold(ground, mark, first))
        await asyncio.sleep(1.5)
        await ground.attempt(
            "MT_02",
            f"key = int({mark[::-1]!r}[::-1])\n"
            "for name in os.listdir('/proc'):\n"
            "    if name.isdigit():\n"
            "        line = open(f'/proc/{name}/cmdline').read() if os.path.exists(f'/proc/{name}/cmdline') else ''\n"
            "        if 'sleep' in line and str(key) in line: broke('process', name)\n"
            "with socket.socket(socket.AF_UNIX) as made:\n"
            "    try: made.connect(f'\\0corpus-{key}'); broke('abstract socket')\n"
            "    except OSError: pass\n"
            "for path in ('/tmp/socket', '/workspace/socket'):\n"
            "    with socket.socket(socket.AF_UNIX) as made:\n"
            "        try: made.connect(path); broke(path)\n"
            "        except OSError: pass\n"
            "with socket.socket() as made:\n"
            "    made.settimeout(2)\n"
            "    try: made.connect(('127.0.0.1', 40404)); broke('port')\n"
            "    except OSError: pass\n"
            "if libc.shmget(key, 0, 0) >= 0: broke('shared memory')\n"
            "if libc.msgget(key, 0) >= 0: broke('message queue')\n",
            second,
        )
        if ground.name != "microvm":
            for name in NAMESPACES:
                inside = {
                    os.readlink(f"/proc/{members(each)[0]}/ns/{name}") for each in (first, second)
                }
                assert len(inside) == 2, name
        groups = {Path(f"/proc/{members(each)[0]}/cgroup").read_text() for each in (first, second)}
        assert len(groups) == 2
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def _hold(ground: Ground, mark: str, sandbox: Sandbox) -> None:
    await ground.python(
        f"key = {int(mark)}\n"
        "import subprocess\n"
        "made = socket.socket(socket.AF_UNIX); made.bind(f'\\0corpus-{key}'); made.listen()\n"
        "port = socket.create_server(('127.0.0.1', 40404))\n"
        "paths = []\n"
        "for path in ('/tmp/socket', '/workspace/socket'):\n"
        "    paths.append(socket.socket(socket.AF_UNIX)); paths[-1].bind(path); paths[-1].listen()\n"
        "libc.shmget(key, 4096, 0o1666); libc.msgget(key, 0o1666)\n"
        "subprocess.run(['sleep', f'20.{key}'])\n",
        sandbox,
    )


async def residue(ground: Ground) -> None:
    """Whoever comes next finds nothing, and comes behind the same walls."""
    mark = secrets.token_hex(8)
    half = f"mark = ''.join(reversed({mark[::-1]!r}))\n"
    for _ in range(3):
        async with ground.fresh() as sandbox:
            await ground.attempt("MT_03", half + _LOOK + _LEAVE, sandbox)


async def the_channel(ground: Ground) -> None:
    """Frames come from the toolrunner alone, whatever a call writes and wherever."""
    sandbox = await ground.sandbox()
    frame = "bytes.fromhex('00000002') + bytes([9]) + bytes(4) + b'{}'"
    outcome = await ground.attempt(
        "AP_12",
        "import glob, stat\n"
        f"frame = {frame}\n"
        "os.write(1, b'\\n' + frame + b'\\n'); os.write(2, frame)\n"
        "paths = [*glob.glob('/proc/[0-9]*/fd/*'), *glob.glob('/dev/virtio-ports/*'), *glob.glob('/dev/vport*'),"
        " *glob.glob('/dev/hvc*')]\n"
        "own = {f'/proc/{os.getpid()}/', '/proc/self/'}\n"
        "for path in paths:\n"
        "    if any(path.startswith(each) for each in own): continue\n"
        "    opened = quietly(os.open, path, os.O_RDWR | os.O_NONBLOCK)\n"
        "    if opened is None: continue\n"
        "    kind = os.fstat(opened).st_mode\n"
        "    if stat.S_ISSOCK(kind) or 'port' in path: broke('channel', path); quietly(os.write, opened, frame)\n"
        "    os.close(opened)\n"
        "for number in range(3, 64):\n"
        "    if quietly(os.write, number, frame) is not None: broke('descriptor', number)\n",
        sandbox,
    )
    assert b"{}" in outcome.stdout
    assert sandbox.channel.lost is None
    assert await ground.alive(sandbox)


async def ports_of_the_host(ground: Ground) -> None:
    """Over vsock: the host, the machine itself where the toolrunner may listen, and others."""
    await ground.attempt(
        "AP_11",
        "for cid in (0, 1, 2, 3, 4, 5, 0xffffffff):\n"
        "    for port in (22, 1024, 5000, 5001, 8080):\n"
        "        made = quietly(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM)\n"
        "        if made is None: continue\n"
        "        made.settimeout(0.3)\n"
        "        try: made.connect((cid, port)); broke(cid, port)\n"
        "        except OSError: pass\n"
        "        made.close()\n",
    )


ROWS = (
    Row("MT_01", "a neighbour's files", neighbours_files),
    Row("MT_02", "a neighbour's objects", neighbours_objects),
    Row("MT_03", "residue", residue),
    Row("AP_11", "ports of the host", ports_of_the_host),
    Row("AP_12", "the channel", the_channel),
)
