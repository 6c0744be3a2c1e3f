"""Machines of the built image under QEMU: templates, clones, and all the ways they end."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

import census
from mas_sandbox.runtimes.channel import Channel, open_channel
from mas_sandbox.runtimes.identity import Identities
from mas_sandbox.runtimes.microvm.config import MicrovmConfig
from mas_sandbox.runtimes.microvm.image.store import find_image
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.microvm.vm import DiskLimit, Drive, Place, Template, Vm, VmSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call, Hello

pytestmark = pytest.mark.anyio

IDLE_PSS_MB = 70
_numbers = count()
_identities = Identities()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("qemu")


@pytest.fixture(scope="module")
def spec() -> VmSpec:
    image = find_image()
    return VmSpec(image.kernel, image.initrd, image.rootfs, mem_mib=256, overlay_mb=64)


@pytest.fixture(scope="module")
def sealed(base: Path, spec: VmSpec) -> Iterator[Template]:
    """A template on disk, made by a driver that is gone."""

    async def make() -> Template:
        driver = new_driver(base)
        try:
            return await driver.make_template(spec, new_place(base), base / "template")
        finally:
            await driver.close()

    yield asyncio.run(make())


@pytest.fixture
async def driver(base: Path) -> AsyncIterator[QemuDriver]:
    """After each test, no process, open file or file of its machines is left."""
    descriptors, files = set(os.listdir("/proc/self/fd")), set(os.listdir(base))
    processes = set(census.children(os.getpid()))
    driver = new_driver(base)
    yield driver
    await driver.close()
    assert set(census.children(os.getpid())) == processes
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert set(os.listdir(base)) - files <= {"template.key"}


def new_driver(base: Path) -> QemuDriver:
    return QemuDriver(MicrovmConfig(), base, vsock=False)


def new_place(base: Path) -> Place:
    name = f"vm{next(_numbers)}"
    return Place(name, base / name, user=_identities.take())


@asynccontextmanager
async def greeted(vm: Vm, name: str) -> AsyncIterator[Channel]:
    async with vm:
        channel = await open_channel(await vm.connect(5))
        hello = None if vm.hello is None else Hello.parse(vm.hello)
        await channel.welcome({}, name, 60, hello=hello)
        yield channel
        channel.close()


async def shown(channel: Channel, command: str) -> str:
    outcome = await channel.call(Call("bash", {"command": command}, timeout_ms=30_000))
    assert (outcome.exit_code, outcome.stderr) == (0, b"")
    return outcome.stdout.decode().strip()


async def test_clones_share_neither_randomness_nor_names_nor_writes(
    driver: QemuDriver, sealed: Template, base: Path
) -> None:
    asked = "cd /proc/sys/kernel; cat random/boot_id random/uuid hostname /etc/machine-id"
    said = []
    for name in ("one", "two"):
        async with greeted(await driver.clone(sealed, new_place(base)), name) as channel:
            assert await shown(channel, "ls /workspace") == ""
            await shown(channel, f"echo {name} > /workspace/file")
            said.append((await shown(channel, f"{asked}; head -c 16 /dev/urandom | od -x")).split())
    assert len(said[0]) == len(said[1]) > 5
    assert not (set(said[0]) & set(said[1])) - {"0000000", "0000020"}


async def test_idle_clones_are_small(driver: QemuDriver, sealed: Template, base: Path) -> None:
    # All at once: the first to come opens the template for the others.
    vms = await asyncio.gather(*(driver.clone(sealed, new_place(base)) for _ in range(3)))
    channels = [await open_channel(await vm.connect(5)) for vm in vms]
    try:
        for vm, channel in zip(vms, channels, strict=True):
            assert vm.hello is not None
            await channel.welcome({}, vm.id, 30, hello=Hello.parse(vm.hello))
        sizes = [_pss_mb(vm.pid) for vm in vms]
    finally:
        for vm, channel in zip(vms, channels, strict=True):
            channel.close()
            await vm.stop()
    assert max(sizes) <= IDLE_PSS_MB, sizes


async def test_a_monitor_runs_as_a_user_of_its_own_and_filtered(
    driver: QemuDriver, sealed: Template, base: Path
) -> None:
    place = new_place(base)
    async with await driver.clone(sealed, place) as vm:
        status = Path(f"/proc/{vm.pid}/status").read_text()
        user = os.getuid() if place.user is None else place.user
        assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
        assert "Seccomp:\t2\n" in status
        names = {task.read_text().strip() for task in Path(f"/proc/{vm.pid}/task").glob("*/comm")}
        assert any(name.startswith("CPU 0") for name in names)


async def test_a_paused_machine_says_nothing_until_it_is_resumed(
    driver: QemuDriver, sealed: Template, base: Path
) -> None:
    vm = await driver.clone(sealed, new_place(base))
    async with greeted(vm, "paused") as channel:
        await vm.pause()
        call = asyncio.create_task(shown(channel, "echo awake"))
        done, _ = await asyncio.wait({call}, timeout=1)
        assert not done
        await vm.resume()
        assert await call == "awake"


async def test_a_snapshot_of_a_clone_goes_on_where_it_was(
    driver: QemuDriver, sealed: Template, base: Path, tmp_path: Path
) -> None:
    vm = await driver.clone(sealed, new_place(base))
    async with greeted(vm, "first") as channel:
        await shown(channel, "echo kept > /workspace/file")
        await vm.pause()
        snapshot = await vm.snapshot(tmp_path / "snapshot")
        await vm.resume()
        assert await shown(channel, "cat /workspace/file") == "kept"
    again = await driver.clone(snapshot, new_place(base))
    async with greeted(again, "again") as channel:
        assert await shown(channel, "cat /workspace/file; hostname") == "kept\nagain"


@pytest.mark.parametrize("name", ["memory", "state", "manifest"])
async def test_one_flipped_bit_of_a_template_is_refused_before_a_guest_runs(
    driver: QemuDriver, sealed: Template, base: Path, tmp_path: Path, name: str
) -> None:
    altered = tmp_path / "altered"
    altered.mkdir()
    for path in sealed.directory.iterdir():
        os.link(path, altered / path.name)
    content = (altered / name).read_bytes()
    (altered / name).unlink()
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 1])
    (altered / name).write_bytes(content[:middle] + flipped + content[middle + 1 :])
    with pytest.raises(SandboxError, match="cannot be used") as caught:
        await driver.clone(replace(sealed, directory=altered), new_place(base))
    assert caught.value.code is ErrorCode.SANDBOX_CRASH


async def test_a_template_of_another_machine_is_refused(
    driver: QemuDriver, sealed: Template
) -> None:
    with pytest.raises(SandboxError, match="another image, machine, monitor or processor"):
        await driver.open_template(replace(sealed.spec, mem_mib=320), sealed.directory)


async def test_a_killed_monitor_ends_its_channel_and_leaves_nothing(
    driver: QemuDriver, sealed: Template, base: Path
) -> None:
    vm = await driver.clone(sealed, new_place(base))
    async with greeted(vm, "killed") as channel:
        call = asyncio.create_task(shown(channel, "sleep 30"))
        await asyncio.sleep(0.2)
        os.kill(vm.pid, signal.SIGKILL)
        with pytest.raises(SandboxError) as caught:
            await call
        assert caught.value.code is ErrorCode.GUEST_LOST
        assert await vm.ended == -signal.SIGKILL


async def test_a_monitor_that_stops_answering_is_killed_at_the_deadline(
    driver: QemuDriver, sealed: Template, base: Path
) -> None:
    async with await driver.clone(sealed, new_place(base)) as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SandboxError, match=r"pause: no answer within 0\.5 s"):
            await vm.step("pause", vm.qmp.send("stop"), 0.5)
        assert time.monotonic() - started < 3
        assert await vm.ended == -signal.SIGKILL


async def test_a_root_disk_that_is_not_one_is_a_crash_with_the_machines_words(
    driver: QemuDriver, spec: VmSpec, base: Path, tmp_path: Path
) -> None:
    garbage = tmp_path / "rootfs.ext4"
    garbage.write_bytes(os.urandom(1 << 20))
    broken = replace(spec, rootfs=garbage)
    with pytest.raises(SandboxError, match="last words") as caught:
        await driver.make_template(broken, new_place(base), tmp_path / "template")
    assert caught.value.message.startswith("boot: ")
    assert not (tmp_path / "template").exists()


async def test_a_kernel_that_is_not_one_is_a_crash_at_once(
    driver: QemuDriver, spec: VmSpec, base: Path, tmp_path: Path
) -> None:
    garbage = tmp_path / "vmlinuz"
    garbage.write_bytes(b"not a kernel" * 100)
    started = time.monotonic()
    with pytest.raises(SandboxError, match="boot: "):
        place = new_place(base)
        await driver.make_template(replace(spec, kernel=garbage), place, tmp_path / "template")
    assert time.monotonic() - started < 10


@pytest.mark.long
async def test_drives_of_a_booted_machine_are_there_in_order(
    driver: QemuDriver, spec: VmSpec, base: Path, tmp_path: Path
) -> None:
    for name in ("data", "work"):
        (tmp_path / name).write_bytes(name.encode().ljust(4096))
    drives = (
        Drive("data", tmp_path / "data"),
        Drive("work", tmp_path / "work", read_only=False),
    )
    limit = DiskLimit(bytes_per_s=64 << 20, operations_per_s=2000)
    machine = replace(spec, drives=drives)
    place = replace(new_place(base), disk_limit=limit)
    async with greeted(await driver.boot(machine, place), "drives") as channel:
        seen = await shown(channel, "cd /sys/block; cat vda/ro vdb/serial vdb/ro vdc/serial vdc/ro")
    assert seen.replace("\n", "") == "1data1work0"


def _pss_mb(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(rollup.partition("Pss:")[2].split()[0]) / 1024
