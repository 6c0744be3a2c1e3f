"""Runtimes and daemons to measure, with their state in a directory that goes at the end."""

from __future__ import annotations

import asyncio
import re
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from mas_sandbox.runtimes.base import Runtime
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.sdk import AsyncClient

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
async def client(name: str, pool: int) -> AsyncIterator[AsyncClient]:
    """A client of a daemon of its own, over HTTP."""
    token = secrets.token_hex(16)
    with _directory() as directory:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "mas_sandbox.server.main", "-listen", "127.0.0.1:0"),
            *("-runtime", name, "-pool", str(pool), "-state-dir", directory, "-auth-token", token),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(_START_S):
                url = await _url(process)
            drain = asyncio.create_task(_drain(process))
            async with AsyncClient(url, token) as connected:
                yield connected
            drain.cancel()
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


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


async def _url(process: asyncio.subprocess.Process) -> str:
    said = b""
    assert process.stderr is not None
    while not (found := _LISTENING.search(said)):
        line = await process.stderr.readline()
        if not line:
            raise RuntimeError(f"the daemon did not start: {said.decode(errors='replace')[-300:]}")
        said += line
    return found[0].decode()


async def _drain(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    while await process.stderr.read(65536):
        continue
