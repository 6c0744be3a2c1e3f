"""Runtimes and daemons to measure, with their state in a directory that goes at the end."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.runtimes.base import Runtime
from mas_sandbox.runtimes.jail.launch import SETTING, LauncherName
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.runtimes.select import build_runtime

from .rows import Absent

_LISTENING = re.compile(rb"http://127\.0\.0\.1:\d+")
_START_S = 120.0


@asynccontextmanager
async def runtime(name: str, config: str = "") -> AsyncIterator[Runtime]:
    """A runtime that passed its probe. `config`: its config file's JSON, in which `{disk}` is
    the path of a small disk.

    Raises RuntimeError with the mend where it is not to be had here.
    """
    with _directory() as directory:
        built = build_runtime(name, _config(directory, config), directory)
        try:
            probe = await built.probe()
            if not probe.available:
                raise RuntimeError(f"{name}: {probe.reason}; to mend it: {probe.mend}")
            yield built
        finally:
            await built.close()


@asynccontextmanager
async def pool(
    name: str, size: int, launcher: LauncherName | None = None
) -> AsyncIterator[Pool | Absent]:
    """A pool of a runtime, or why it is not to be had here. Of size 0, it starts each sandbox
    when it is asked for. `launcher`: what starts its jails."""
    with _directory() as directory:
        if launcher is None:
            built = build_runtime(name, None, directory)
        else:
            built = JailRuntime(Ownership(), protected=(directory,), launcher=launcher)
        warm = Pool(built, size)
        try:
            probe = await built.probe()
            if not probe.available:
                yield Absent(f"{name}: {probe.reason}")
            elif launcher is not None and probe.facts.get("launcher") != launcher:
                yield Absent(f"{launcher} starts no jail here")
            else:
                yield warm
        finally:
            await warm.close()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon of ours is to be reached. `pid`: its process."""

    url: str
    token: str
    pid: int


@asynccontextmanager
async def daemon(
    name: str, pool: int, *flags: str, launcher: LauncherName | None = None
) -> AsyncIterator[Place]:
    """A daemon of its own, over HTTP. `launcher`: what starts its jails."""
    token = secrets.token_hex(16)
    with _directory() as directory:
        arguments = (
            *("-m", "mas_sandbox.server.main", "-listen", "127.0.0.1:0", "-runtime", name),
            *("-pool", str(pool), "-state-dir", str(directory), "-auth-token", token, *flags),
        )
        async with _serving(*arguments, launcher=launcher) as (url, pid):
            yield Place(url, token, pid)


@contextmanager
def stdio_command(pool: int, launcher: LauncherName | None = None) -> Iterator[list[str]]:
    """The command line of a daemon that speaks JSON lines."""
    with _directory() as directory:
        setting = [] if launcher is None else ["env", f"{SETTING}={launcher}"]
        program = [sys.executable, "-m", "mas_sandbox.server.main"]
        yield [*setting, *program, "-state-dir", str(directory), "-pool", str(pool)]


@asynccontextmanager
async def bare() -> AsyncIterator[Place]:
    """The server of `bench.bare`."""
    async with _serving("-m", "bench.bare") as (url, pid):
        yield Place(url, "", pid)


@asynccontextmanager
async def _serving(
    *arguments: str, launcher: LauncherName | None = None
) -> AsyncIterator[tuple[str, int]]:
    """A Python program that says its URL, and its process; ended at the end."""
    environment = None if launcher is None else {**os.environ, SETTING: launcher}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *arguments),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said = process.stdout
    assert said is not None
    try:
        async with asyncio.timeout(_START_S):
            url = await _url(said)
        drain = asyncio.create_task(_drain(said))
        yield url, process.pid
        drain.cancel()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def pss_mib(pid: int) -> float:
    """Proportional set size of a process (proc_pid_smaps_rollup(5))."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no Pss in smaps_rollup")


def family_pss_mib(pid: int) -> float:
    """PSS of all descendants of a process together."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            with suppress(OSError):
                parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(place.name))
    total, pending = 0.0, children.get(pid, [])
    while pending:
        descendant = pending.pop()
        pending += children.get(descendant, [])
        with suppress(OSError, ValueError):  # it has ended
            total += pss_mib(descendant)
    return total


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mas-bench-") as state:
        directory = Path(state)
        directory.chmod(0o711)  # machines run as users of their own
        yield directory


def _config(directory: Path, text: str) -> Path | None:
    """A config file with this text, and the disk that it may name."""
    if not text:
        return None
    with (directory / "disk").open("wb") as disk:
        disk.truncate(1 << 20)
    file = directory / "config.json"
    file.write_text(text.replace("{disk}", disk.name))
    return file


async def _url(stream: asyncio.StreamReader) -> str:
    said = b""
    while not (found := _LISTENING.search(said)):
        line = await stream.readline()
        if not line:
            raise RuntimeError(f"the daemon did not start: {said.decode(errors='replace')[-300:]}")
        said += line
    return found[0].decode()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        continue
