"""A template of QEMU's: how a stopped machine is written, and how a clone goes on from it.

The state is QEMU's migration stream. The guest's memory stays out of it
(`x-ignore-shared`): it is in a file of its own, which the template's machine shared and
each clone maps privately (docs/devel/migration.rst). Clones never see the files on disk
but copies of them in memory that were verified while they were made and that the
kernel lets nobody write to (see `seal.freeze`): not even a clone that took its QEMU over.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .. import seal
from .command import path_of
from .qmp import Qmp

MEMORY, STATE = "memory", "state"


@dataclass(frozen=True, slots=True)
class OpenTemplate:
    """A template that clones are made from: its own copies, which nobody can write to."""

    state: int
    memory: int | None
    """None where the state holds the memory too: what is saved of a clone."""

    def close(self) -> None:
        os.close(self.state)
        if self.memory is not None:
            os.close(self.memory)


async def store(qmp: Qmp, state: int, memory_apart: bool) -> None:
    """Write the devices' state, and the memory too where it is not in a file of its own."""
    over = qmp.event("MIGRATION", _is_over)
    await qmp.send("migrate-set-capabilities", _capabilities(memory_apart))
    await qmp.send("migrate-set-parameters", {"max-bandwidth": 1 << 40})
    await qmp.send("getfd", {"fdname": STATE}, state)
    await qmp.send("migrate", {"uri": f"fd:{STATE}"})
    await _completed(over, "its state could not be saved")


async def restore(qmp: Qmp, state: int, memory_apart: bool) -> None:
    """Read what `_store` wrote, and let the machine run. Nothing is waited for between."""
    over = qmp.event("MIGRATION", _is_over)
    qmp.send("migrate-set-capabilities", _capabilities(memory_apart))
    qmp.send("getfd", {"fdname": STATE}, state)
    await qmp.send("migrate-incoming", {"uri": f"fd:{STATE}"})
    await _completed(over, "its state could not be restored")
    await qmp.send("cont")


def _capabilities(memory_apart: bool) -> dict[str, Any]:
    wanted = {"events": True, "x-ignore-shared": memory_apart}
    return {
        "capabilities": [{"capability": name, "state": state} for name, state in wanted.items()]
    }


def _is_over(data: dict[str, Any]) -> bool:
    return data.get("status") in {"completed", "failed", "cancelled"}


async def _completed(over: asyncio.Future[dict[str, Any]], otherwise: str) -> None:
    if (await over).get("status") != "completed":
        raise SandboxError(ErrorCode.SANDBOX_CRASH, otherwise)


def write(
    seals: seal.Seals, directory: Path, manifest: seal.Manifest, files: Mapping[str, int]
) -> None:
    """Write beside `directory` and rename: it appears whole or not at all."""
    unfinished = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}")
    unfinished.mkdir(mode=0o700)
    try:
        for name, source in files.items():
            target = os.open(unfinished / name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                seal.copy(source, target)
            finally:
                os.close(target)
        seals.seal(unfinished, manifest, tuple(files))
        unfinished.rename(directory)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


def load(
    seals: seal.Seals, directory: Path, driver: str, key: str
) -> tuple[seal.Manifest, OpenTemplate]:
    """What `write` wrote, verified and held in memory. Raises SandboxError."""
    manifest, files = seals.load(directory, driver, key)
    return manifest, OpenTemplate(files[STATE], files.get(MEMORY))


def reopened(state: int) -> int:
    """The same file, read from its beginning by one machine alone."""
    if sys.platform == "linux":
        return os.open(path_of(state), os.O_RDONLY | os.O_CLOEXEC)
    copied = seal.anonymous(STATE)
    seal.copy(state, copied)
    return copied
