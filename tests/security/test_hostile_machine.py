"""KS-11: a guest whose kernel is the attacker's, against the monitor around it."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import census
from faults.dice import seeds
from mas_sandbox.runtimes.identity import Identities
from mas_sandbox.runtimes.microvm.config import MicrovmConfig
from mas_sandbox.runtimes.microvm.image.store import find_image
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.microvm.vm import Drive, Place, Vm, VmSpec
from security.posture.seen import posture

pytestmark = pytest.mark.anyio

DRIVER = Path(__file__).parent / "hostile" / "driver.py"
BOOT_S, SILENCE_S = 60, 10


@pytest.fixture
async def driver(tmp_path: Path) -> AsyncIterator[QemuDriver]:
    made = QemuDriver(MicrovmConfig(), tmp_path, vsock=False)
    yield made
    await made.close()


async def test_KS_11_garbage_to_every_device_stays_between_a_guest_and_its_monitor(
    driver: QemuDriver, tmp_path: Path
) -> None:
    for seed in seeds(1):
        await write_garbage(driver, tmp_path, seed)


async def write_garbage(driver: QemuDriver, tmp_path: Path, seed: int) -> None:
    image = find_image()
    before = digest(image.rootfs)
    # A disk of the machine's, which its Python reads as a program.
    disk = tmp_path / "driver"
    text = DRIVER.read_bytes()
    disk.write_bytes(text + b"\n" * (-len(text) % 512))
    words = f"iomem=relaxed mas.command=/opt/mas/bin/python3 mas.arg=/dev/vdb mas.arg={seed}"
    spec = VmSpec(
        image.kernel,
        image.initrd,
        image.rootfs,
        overlay_mb=64,
        boot_args=words,
        drives=(Drive("driver", disk),),
    )
    users = Identities()
    place = Place("hostile", tmp_path / "hostile", user=users.take())
    async with await driver.boot(spec, place) as vm:
        ready = await last_words(vm, "driver: ready", BOOT_S)
        assert "driver: ready for 4 devices" in ready, ready
        began = posture(vm.pid)
        said = await last_words(vm, "driver: over", SILENCE_S)
        if not vm.ended.done():
            assert posture(vm.pid) == began, "the monitor is not what it was"
            assert census.children(vm.pid) == []
    # What comes after these may well end the machine, or leave it without an interrupt.
    done = dict(re.findall(r"driver: (\w+) (\d+) of", said))
    print(f"seed {seed}: {done}, the monitor's end: {vm.ended.result()}")
    assert int(done["queues"]) > 20
    assert int(done["registers"]) > 1000
    assert digest(image.rootfs) == before
    assert disk.read_bytes().rstrip() == text.rstrip()
    assert [each.name for each in tmp_path.iterdir()] == [disk.name]


async def last_words(vm: Vm, word: str, silence_s: float) -> str:
    """What the guest said until it said this, was silent for so long or was no more."""
    said, since = "", time.monotonic()
    while not vm.ended.done() and word not in said and time.monotonic() - since < silence_s:
        await asyncio.sleep(0.1)
        if vm.console_tail() != said:
            said, since = vm.console_tail(), time.monotonic()
    return said


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
