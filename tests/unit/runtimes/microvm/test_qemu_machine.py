"""A monitor that is missing, fails, or hangs: a typed error in time, and nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.config import MicrovmConfig
from mas_sandbox.runtimes.microvm.qemu import driver as driver_module
from mas_sandbox.runtimes.microvm.qemu import launch as launch_module
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.microvm.qemu.machine import read_hello
from mas_sandbox.runtimes.microvm.vm import Drive, Place, Template, VmSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind, ProtocolError, encode
from mas_sandbox.wire.messages import PROTOCOL, Hello

pytestmark = pytest.mark.anyio

Build = Callable[[str], QemuDriver]

HELLO = Hello(protocol=PROTOCOL, pid=1, python="3.11", tools=[], controls=[]).encode()


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    for name in ("vmlinuz", "initrd.img", "rootfs.ext4"):
        (tmp_path / name).write_bytes(name.encode())
    return VmSpec(tmp_path / "vmlinuz", tmp_path / "initrd.img", tmp_path / "rootfs.ext4")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("vm1", tmp_path / "vm1")


@pytest.fixture
async def build(tmp_path: Path) -> AsyncIterator[Build]:
    """A driver whose monitor is a shell script; after the test nothing of it is left."""
    descriptors = set(os.listdir("/proc/self/fd"))
    children = _children()

    def made(script: str) -> QemuDriver:
        program = tmp_path / "qemu"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return QemuDriver(MicrovmConfig(qemu_bin=str(program)), tmp_path, vsock=False)

    yield made
    assert _children() == children
    assert set(os.listdir("/proc/self/fd")) == descriptors


def _children() -> set[str]:
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(own.read_text().split())


async def refused(work: object) -> str:
    with pytest.raises(SandboxError) as caught:
        await work  # type: ignore[misc]  # any of the driver's coroutines
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    return caught.value.message


async def test_a_missing_monitor_is_named_with_the_mend(
    tmp_path: Path, spec: VmSpec, place: Place
) -> None:
    driver = QemuDriver(MicrovmConfig(qemu_bin=str(tmp_path / "none")), tmp_path)
    assert "apt-get install" in await refused(driver.boot(spec, place))
    found = await driver.probe(spec, place)
    assert not found.available
    assert "none is not installed" in found.reason
    assert "apt-get install" in found.mend


@pytest.mark.parametrize("name", ["kernel", "initrd", "rootfs"])
async def test_a_missing_file_of_the_machine_is_named(
    build: Build, spec: VmSpec, place: Place, name: str
) -> None:
    path = getattr(spec, name)
    path.unlink()
    message = await refused(build("exit 0").boot(spec, place))
    assert str(path) in message
    assert "image build" in message


async def test_a_log_that_cannot_be_opened_is_named(
    build: Build, spec: VmSpec, place: Place, tmp_path: Path
) -> None:
    nowhere = replace(place, log_path=tmp_path / "none" / "log")
    assert "log_path" in await refused(build("exit 0").boot(spec, nowhere))


async def test_a_monitor_that_dies_at_once_is_quoted(
    build: Build, spec: VmSpec, place: Place
) -> None:
    async with await build("echo no such accelerator >&2; exit 1").boot(spec, place) as vm:
        message = await refused(vm.pause())
        assert vm.ended.done()
    assert message.startswith("pause: ")
    assert "no such accelerator" in message


async def test_a_monitor_that_hangs_is_killed_at_the_steps_deadline(
    build: Build, spec: VmSpec, place: Place
) -> None:
    async with await build("exec sleep 60").boot(spec, place) as vm:
        started = time.monotonic()
        message = await refused(vm.step("pause", vm.qmp.send("stop"), 0.2))
        assert time.monotonic() - started < 2
        assert "no answer within 0.2 s" in message
        assert await vm.ended == -signal.SIGKILL


async def test_a_stopped_monitor_is_ended_too(build: Build, spec: VmSpec, place: Place) -> None:
    writable = replace(spec, drives=(Drive("work", spec.rootfs, read_only=False),))
    vm = await build("exec sleep 60").boot(writable, place)
    os.kill(vm.pid, signal.SIGSTOP)
    started = time.monotonic()
    await vm.stop()
    assert time.monotonic() - started < 4
    await vm.stop()


async def test_what_a_machine_starts_ends_with_it(build: Build, spec: VmSpec, place: Place) -> None:
    async with await build("sleep 60 & exec sleep 60").boot(spec, place) as vm:
        members = _group(vm.pid)
        while len(members) < 2:
            await asyncio.sleep(0.01)
            members = _group(vm.pid)
    deadline = time.monotonic() + 2
    while _group(vm.pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert not _group(vm.pid)


async def test_a_machine_dies_with_a_daemon_that_was_killed(
    build: Build, spec: VmSpec, tmp_path: Path
) -> None:
    build("exec sleep 60")
    daemon = f"""
import asyncio
from pathlib import Path
from mas_sandbox.runtimes.microvm.config import MicrovmConfig
from mas_sandbox.runtimes.microvm.qemu import driver as driver_module
from mas_sandbox.runtimes.microvm.qemu import launch as launch_module
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.microvm.vm import Place, VmSpec

async def main():
    driver = QemuDriver(MicrovmConfig(qemu_bin={str(tmp_path / "qemu")!r}), Path("/"), vsock=False)
    spec = VmSpec(Path({str(spec.kernel)!r}), None, Path({str(spec.rootfs)!r}))
    vm = await driver.boot(spec, Place("vm", Path("/none")))
    print(vm.pid, flush=True)
    await vm.ended

asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", daemon], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        monitor = int(process.stdout.readline())
        assert _group(monitor)
        process.kill()
    deadline = time.monotonic() + 2
    while _group(monitor) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    assert not _group(monitor)


async def test_a_serial_channel_is_connected_once(build: Build, spec: VmSpec, place: Place) -> None:
    async with await build("exec sleep 60").boot(spec, place) as vm:
        (await vm.connect(1)).close()
        assert "one connection" in await refused(vm.connect(1))


async def test_the_console_is_kept_and_logged(
    build: Build, spec: VmSpec, place: Place, tmp_path: Path
) -> None:
    logged = replace(place, log_path=tmp_path / "log")
    # As QEMU would: the descriptor is the one that its command line tells it of.
    program = (
        "import os, re, sys, time; "
        "console = re.search(r'id=console,fd=([0-9]+)', ' '.join(sys.argv))[1]; "
        "os.write(int(console), b'Kernel panic - not syncing: why\\nRebooting\\n'); time.sleep(60)"
    )
    script = f'exec {sys.executable} -I -c "{program}" "$@"'
    async with await build(script).boot(spec, logged) as vm:
        while "Rebooting" not in vm.console_tail():
            await asyncio.sleep(0.01)
        message = await refused(vm.step("boot", _fail(), 1))
        assert message.endswith("; the machine's last words: Kernel panic - not syncing: why")
    assert (tmp_path / "log").read_text().splitlines()[-1] == "Rebooting"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


async def test_a_probe_tells_why_nothing_booted(build: Build, spec: VmSpec, place: Place) -> None:
    driver = build('case "$*" in *version*) echo QEMU emulator version 7.2;; *) exit 3;; esac')
    found = await driver.probe(spec, place)
    assert not found.available
    assert found.version == "7.2"
    assert {name for name, _ in found.tried} >= {"tcg"}
    assert "tcg: boot: " in found.reason


async def test_a_kvm_that_opens_and_hangs_is_given_up_for_what_boots(
    build: Build, spec: VmSpec, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (driver_module, launch_module):
        monkeypatch.setattr(module, "KVM", tmp_path / "rootfs.ext4")
    monkeypatch.setitem(driver_module.PROBE_TIMEOUT_S, "kvm", 0.3)
    hello = encode(Kind.HELLO, 0, HELLO).hex()
    says_hello = f"os.write(int(sys.argv[1]), bytes.fromhex('{hello}')); time.sleep(60)"
    driver = build(
        'case "$*" in *version*) echo QEMU emulator version 7.2; exit;; *"-accel kvm"*) '
        "exec sleep 60;; esac\n"
        'channel=$(echo "$*" | sed "s/.*id=channel,fd=\\([0-9]*\\).*/\\1/")\n'
        f'exec {sys.executable} -c "import os, sys, time; {says_hello}" $channel'
    )
    started = time.monotonic()
    found = await driver.probe(spec, place)
    assert (found.available, found.acceleration) == (True, "tcg")
    assert driver.acceleration == "tcg"
    assert found.tried == (("kvm", "boot: no answer within 0.3 s"),)
    assert time.monotonic() - started < 5


async def test_a_machine_with_a_writable_drive_has_no_template(
    build: Build, spec: VmSpec, place: Place, tmp_path: Path
) -> None:
    writable = replace(spec, drives=(Drive("work", spec.rootfs, read_only=False),))
    driver = build("exec sleep 60")
    assert "writable" in await refused(driver.make_template(writable, place, tmp_path / "t"))


async def test_a_template_that_is_not_there_is_a_typed_error(
    build: Build, spec: VmSpec, place: Place, tmp_path: Path
) -> None:
    driver = build("echo QEMU emulator version 7.2")
    missing = tmp_path / "template"
    assert str(missing) in await refused(driver.open_template(spec, missing))
    template = Template(missing, "qemu", spec, b"", 0.0, "key")
    assert str(missing) in await refused(driver.clone(template, place))


async def test_a_template_key_depends_on_files_machine_and_monitor(
    build: Build, spec: VmSpec
) -> None:
    driver = build("echo QEMU emulator version 7.2")
    keys = [driver.template_key(spec), driver.template_key(replace(spec, mem_mib=512))]
    spec.rootfs.write_bytes(b"rebuilt")
    keys.append(driver.template_key(spec))
    driver.acceleration = "kvm"
    keys.append(driver.template_key(spec))
    keys.append(build("echo QEMU emulator version 8.0").template_key(spec))
    assert len(set(keys)) == len(keys)


async def test_hello_is_read_from_pieces_and_nothing_else_is_taken() -> None:
    cases = (
        (encode(Kind.HELLO, 0, HELLO), True),
        (encode(Kind.HELLO, 0, b"{}"), False),
        (encode(Kind.READY, 0), False),
    )
    for said, good in cases:
        ours, theirs = _pair()
        with ours, theirs:
            reading = asyncio.create_task(read_hello(ours))
            for index in range(len(said)):
                theirs.send(said[index : index + 1])
                await asyncio.sleep(0)
            if good:
                assert await reading == HELLO
            else:
                with pytest.raises(ProtocolError):
                    await reading


async def test_a_channel_that_closes_before_hello_is_an_error() -> None:
    ours, theirs = _pair()
    theirs.close()
    with ours, pytest.raises(ProtocolError, match="closed"):
        await read_hello(ours)


def _pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return ours, theirs


async def _fail() -> None:
    raise SandboxError(ErrorCode.SANDBOX_CRASH, "it failed")


def _group(leader: int) -> list[int]:
    """The live processes of a session."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                fields = (path / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(path.name))
    return found
