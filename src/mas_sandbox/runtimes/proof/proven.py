"""What a runtime claims, less what the self-test broke. Kept for as long as the host is up."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mas_sandbox import __version__
from mas_sandbox.wire.controls import Control

from .. import kept
from ..base import ControlStatus

if TYPE_CHECKING:
    from .run import Start

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_HERE = Path(__file__).parent
_INTERVAL_S = 0.02


async def proven(
    name: str,
    facts: str,
    claimed: Mapping[Control, ControlStatus],
    start: Start,
    kept_in: Path,
) -> dict[Control, ControlStatus]:
    """`claimed`, where each control that the self-test broke is not enforced, and says how.

    `name`: the runtime's; `facts`: changes with whatever the walls are made of; `start`:
    starts a sandbox without asking for a probe; `kept_in`: a directory of ours. A
    result is kept once every attempt came to an end. Raises OSError where the directory
    is not to be written to.
    """
    enforced = sorted(control for control, status in claimed.items() if status.enforced)
    mechanisms = [f"{control}: {claimed[control].mechanism}" for control in enforced]
    path = kept_in / f"proof-{name}-{_digest([facts, *mechanisms])}.json"
    broken = kept.read(path, _parse)
    if broken is None:
        async with _only_one(kept_in / f"proof-{name}.busy"):
            broken = kept.read(path, _parse)  # another daemon may have been faster
            if broken is None:
                broken = await _find_out(start, enforced, path)
    return {
        control: replace(
            status, enforced=False, mend=f"the self-test of {control} failed: {broken[control]}"
        )
        if control in broken
        else status
        for control, status in claimed.items()
    }


async def _find_out(start: Start, controls: list[Control], path: Path) -> dict[str, str]:
    from .run import attack  # not needed where the answer is kept

    try:
        verdicts = await attack(start, controls)
    except OSError as error:
        return dict.fromkeys(controls, f"could not be tried: {error}")
    broken = {str(control): found.broke for control, found in verdicts.items() if found.broke}
    if all(found.final for found in verdicts.values()):
        kept.keep(path, broken)
    return broken


@asynccontextmanager
async def _only_one(path: Path) -> AsyncIterator[None]:
    """While it is held, no other daemon tests this runtime: they would disturb each other."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_INTERVAL_S)
        yield
    finally:
        os.close(descriptor)


def _parse(broken: dict[str, object]) -> dict[str, str]:
    """Control -> how it was broken."""
    return {str(control): str(how) for control, how in broken.items()}


def _digest(facts: list[str]) -> str:
    """Changes with the boot, this version and the self-test itself."""
    facts = [__version__, *facts]
    with suppress(OSError):
        facts.append(_BOOT_ID.read_text().strip())
    for path in sorted(_HERE.glob("*.py")):
        status = path.stat()
        facts.append(f"{path.name} {status.st_mtime_ns} {status.st_size}")
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
