"""FS: files of the host, and the roots of file tools."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import mas_sandbox
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.toolrunner import toolrunner_archive
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.messages import Call

from .ground import Ground, Row, members

Asked = tuple[str, dict[str, str]]
READING: tuple[Asked, ...] = ("read_file", {}), ("list_dir", {})
WRITING: tuple[Asked, ...] = (
    ("write_file", {"content": "x"}),
    ("edit_file", {"old_text": "root:x:0:0", "new_text": "x"}),
)


async def tools(ground: Ground, path: str) -> list[CallOutcome]:
    """What every file tool says to a path."""
    return [
        await ground.run(Call(tool, {"path": path} | more, timeout_ms=30_000))
        for tool, more in (*READING, *WRITING)
    ]


async def sentinel_by_path(ground: Ground) -> None:
    path = ground.stage.sentinel
    await ground.bash(
        f"cat {path} /proc/1/root{path} /proc/self/root{path} /proc/self/cwd/..{path};"
        f" cp {path} /workspace/x; ln {path} y; cat x y; ls -R {path.parent} /root/.ssh"
    )
    for outcome in await tools(ground, str(path)):
        assert outcome.code is not None


async def strange_paths(ground: Ground) -> None:
    for path in (
        *("../etc/passwd", "/workspace/../etc/passwd", "/etc/passwd", "/workspace-evil/x", "a\0b"),
        *("a/" * 2500, "x" * 5000, "/proc/self/environ", "./../../x", "//etc/passwd", ""),
    ):
        for tool, more in (READING[0], WRITING[0]):
            outcome = await ground.run(Call(tool, {"path": path} | more, timeout_ms=30_000))
            assert outcome.code in (ErrorCode.INVALID_REQUEST, ErrorCode.TOOL_FAILED), path
            assert not outcome.has_value
    for outcome in await tools(ground, "../etc/passwd"):
        assert outcome.code in (ErrorCode.INVALID_REQUEST, ErrorCode.TOOL_FAILED)


async def links_in_the_workspace(ground: Ground) -> None:
    sentinel = ground.stage.sentinel
    await ground.bash(
        f"mkdir -p links; cd links; ln -sf {sentinel} file; ln -sf / root; ln -sf ../.. up;"
        f" ln -sf root chain; ln -sf {ground.stage.open}/made dangling; ln -sf loop loop;"
        " ln -sf /proc/self/root magic; ln -sf /etc/passwd passwd; true"
    )
    before = (await ground.bash("cat /etc/passwd")).stdout
    for name in (
        *("file", "passwd", "root/etc/passwd", "up/etc/passwd", "chain/etc/passwd", "dangling"),
        *("loop", "magic/etc/passwd"),
    ):
        for outcome in await tools(ground, f"links/{name}"):
            assert outcome.code is not None, name
    assert (await ground.bash("cat /etc/passwd")).stdout == before


_SWAP = """
import time
atomic = libc.renameat2(-100, b'swap', -100, b'swap-link', 2) == 0  # RENAME_EXCHANGE
until, swaps = time.monotonic() + 3, 0
while time.monotonic() < until or swaps % 2 != atomic:
    if atomic:
        assert libc.renameat2(-100, b'swap', -100, b'swap-link', 2) == 0
    else:  # gVisor knows no exchange
        one, other = ('real', 'swap-link') if swaps % 2 == 0 else ('swap-link', 'real')
        os.rename('swap', one)
        os.rename(other, 'swap')
    swaps += 1
print(swaps)
"""


async def swaps_while_tools_write(ground: Ground) -> None:
    async with ground.fresh() as sandbox:
        await ground.bash("mkdir /tmp/outside swap; ln -s /tmp/outside swap-link", sandbox)
        swapping = asyncio.create_task(ground.python(_SWAP, sandbox))
        written = 0
        while not swapping.done():
            arguments = {"path": f"swap/f{written}", "content": "x", "create_dirs": False}
            call = Call("write_file", arguments)
            await ground.run(call, sandbox)
            written += 1
        swaps = await swapping
        assert swaps.exit_code == 0, swaps.stderr
        assert int(swaps.stdout) >= 500
        assert written >= 3
        assert (await ground.bash("ls -A /tmp/outside", sandbox)).stdout == b""


async def files_that_are_none(ground: Ground) -> None:
    await ground.bash(
        "rm -rf odd; mkdir odd; cd odd; mkfifo fifo; truncate -s 1P sparse || truncate -s 7E sparse;"
        " python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"socket\")'; ln -s /dev/zero z"
    )
    began = asyncio.get_running_loop().time()
    for name in ("fifo", "socket", "sparse", "z"):
        read = await ground.run(Call("read_file", {"path": f"odd/{name}"}, timeout_ms=30_000))
        assert read.code is not ErrorCode.TIMEOUT, name
        assert len(repr(read.value)) < 4_000_000
    assert asyncio.get_running_loop().time() - began < 20


async def read_only_places(ground: Ground) -> None:
    await ground.attempt(
        "FS_08",
        "import subprocess\n"
        "for place in ('/usr/corpus', '/etc/corpus', '/run/mas/corpus', '/bin/corpus',"
        " '/usr/bin/env', '/etc/passwd', '/etc/ssl/certs/corpus', '/opt/mas/corpus'):\n"
        "    opened = quietly(os.open, place, os.O_WRONLY | os.O_CREAT)\n"
        "    if opened is not None: broke(place)\n"
        "for place in ('/', '/usr', '/etc', '/proc'):\n"
        "    for how in ('remount,rw', 'remount,bind,rw'):\n"
        "        done = quietly(subprocess.run, ['mount', '-o', how, place], capture_output=True)\n"
        "        if done is not None and done.returncode == 0: broke('mount', how, place)\n"
        "if libc.mount(b'none', b'/usr', None, 32 | 4096, None) == 0: broke('mount')\n",
    )


async def hooks_for_whoever_comes(ground: Ground) -> None:
    """Nothing of the daemon's runs in the tree, and no tool takes orders from what lies there."""
    payload = f"touch {ground.stage.open}/hook; touch /tmp/hooked"
    async with ground.fresh() as sandbox:
        await ground.bash(
            f"cat >.bashrc <<'X'\n{payload}\nX\n"
            "cp .bashrc .profile; cp .bashrc .bash_profile; mkdir -p .git .mas-sandbox .config;"
            f" printf '[core]\\nfsmonitor = \"{payload}\"\\n' >.git/config; cp .git/config .gitconfig;"
            f" echo 'import os; os.system(\"{payload}\")' >sitecustomize.py;"
            " for name in usercustomize json socket tempfile encodings; do"
            " cp sitecustomize.py $name.py; done; cp .bashrc policy.yaml; cp .bashrc .mas-sandbox/x",
            sandbox,
        )
        for call in (
            Call("calculator", {"expression": "6 * 7"}),
            Call("list_dir", {"path": "."}),
            Call("read_file", {"path": ".git/config"}),
            Call("glob", {"pattern": "**/*.py"}),
            Call("grep", {"pattern": "touch"}),
            Call("write_file", {"path": "new", "content": "x"}),
            Call("bash", {"command": "true"}),
        ):
            assert (await ground.run(call, sandbox)).code is None, call.tool
        assert (await ground.bash("ls /tmp", sandbox)).stdout == b""


async def magic_links(ground: Ground) -> None:
    await ground.python(
        "import glob\n"
        f"sentinel = {str(ground.stage.sentinel)!r}\n"
        "links = [l for p in ('root', 'cwd', 'exe', 'fd/*', 'task/*/root', 'map_files/*')"
        " for l in glob.glob(f'/proc/[0-9]*/{p}')]\n"
        "for link in links:\n"
        "    for path in (link + sentinel, link + '/..' + sentinel, link):\n"
        "        opened = quietly(os.open, path, os.O_RDONLY | os.O_NONBLOCK)\n"
        "        if opened is not None:\n"
        "            print(path, quietly(os.read, opened, 100)); os.close(opened)\n"
    )


async def kernel_settings(ground: Ground) -> None:
    """Opened for writing and left alone: it would be this host's own."""
    await ground.attempt(
        "FS_12",
        "import glob\n"
        "for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/sys/vm/drop_caches',"
        " '/proc/sys/kernel/modprobe', '/sys/kernel/uevent_helper', '/proc/self/attr/current',"
        " *glob.glob('/sys/fs/cgroup/**/release_agent', recursive=True),"
        " *glob.glob('/sys/fs/cgroup/**/cgroup.procs', recursive=True)):\n"
        "    if path.endswith('attr/current'): continue\n"
        "    if quietly(os.open, path, os.O_WRONLY) is not None: broke(path)\n",
    )


async def own_runtime(ground: Ground) -> None:
    before = _digests()
    await ground.attempt(
        "FS_13",
        "import glob\n"
        "for path in (*glob.glob('/proc/[0-9]*/exe'), '/proc/self/exe', '/run/mas/toolrunner.pyz',"
        " '/opt/mas/toolrunner.pyz', '/usr/bin/python3', '/usr/bin/runsc', '/usr/bin/bwrap'):\n"
        "    held = quietly(os.open, path, os.O_PATH)\n"
        "    for name in (path, f'/proc/self/fd/{held}'):\n"
        "        if quietly(os.open, name, os.O_RDWR) is not None: broke(name)\n",
    )
    assert _digests() == before


def _digests() -> list[str]:
    programs = (toolrunner_archive(), Path("/usr/bin/bwrap"), Path("/usr/bin/python3"))
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in programs]


async def names_of_the_host(ground: Ground) -> None:
    """Nothing that tells of the host's directories, the daemon's state or its user."""
    outcome = await ground.bash(
        "cat /proc/self/mountinfo /proc/mounts /proc/[0-9]*/cmdline /proc/[0-9]*/maps /proc/cgroups"
        " /proc/self/cgroup /proc/1/environ; env; df -a; cat /nonexistent; read_file; ls -la / /run /etc"
    )
    said = outcome.stdout + outcome.stderr
    for call in (
        Call("read_file", {"path": "/nonexistent"}),
        Call("write_file", {"path": "../x", "content": "x"}),
        Call("no_such_tool", {}),
        Call("calculator", {"expression": "1/"}),
        Call("python", {"code": "import traceback; raise RuntimeError"}),
    ):
        failed = await ground.run(call)
        said += failed.message.encode() + failed.stderr
    sandbox = await ground.sandbox()
    secret = [
        *(str(Path(mas_sandbox.__file__).parents[2]), str(ground.stage.sentinel.parent)),
        *(sandbox.id, "mas-sandbox-", str(Path.home()) + "/"),
    ]
    secret += [f"/proc/{process}" for process in members(sandbox)[:1]]
    assert [each for each in secret if each.encode() in said] == []


ROWS = (
    Row("FS_01", "host file by path", sentinel_by_path),
    Row("FS_02", "file tools and strange paths", strange_paths),
    Row("FS_03", "file tools through links", links_in_the_workspace),
    Row("FS_04", "swaps while a tool writes", swaps_while_tools_write),
    Row("FS_06", "files that are none", files_that_are_none),
    Row("FS_08", "read-only places", read_only_places),
    Row("FS_09", "hooks for whoever comes", hooks_for_whoever_comes),
    Row("FS_11", "magic links", magic_links),
    Row("FS_12", "kernel settings", kernel_settings),
    Row("FS_13", "its own runtime", own_runtime),
    Row("FS_14", "names of the host", names_of_the_host),
)
