"""Firecracker's driver with a guest: through its double, which boots the real one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.firecracker_install import install_firecracker
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.identity import FIRST
from mas_sandbox.runtimes.microvm.config import load_config
from mas_sandbox.runtimes.microvm.firecracker.driver import FirecrackerDriver
from mas_sandbox.runtimes.microvm.image.store import find_image
from mas_sandbox.runtimes.microvm.vm import Place, Template, VmSpec
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.messages import Call

pytestmark = [pytest.mark.serial, pytest.mark.long, pytest.mark.anyio]

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the double, its config file and a template."""
    return tmp_path_factory.mktemp("firecracker")


@pytest.fixture(scope="module")
def config(home: Path) -> Path:
    program = install_firecracker(home / "bin")
    path = home / "microvm.yaml"
    path.write_text(f"vmm: firecracker\nfirecracker_bin: {program}\nmachine: {{mem_mib: 256}}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def driver(home: Path, config: Path) -> FirecrackerDriver:
    return FirecrackerDriver(load_config(config), home)


@pytest.fixture(scope="module")
def spec() -> VmSpec:
    image = find_image()
    return VmSpec(image.kernel, image.initrd, image.rootfs, overlay_mb=64)


@pytest.fixture(scope="module")
def template(home: Path, driver: FirecrackerDriver, spec: VmSpec) -> Template:
    making = driver.make_template(spec, at(home, "maker"), home / "template")
    made = asyncio.run(making)
    assert not (home / "maker").exists()
    return made


def at(directory: Path, name: str, **more: Path) -> Place:
    user = FIRST + len(name) if os.geteuid() == 0 else None
    return Place(name, directory / name, user=user, **more)


async def test_a_clone_goes_on_from_the_template_and_leaves_nothing(
    driver: FirecrackerDriver, template: Template, tmp_path: Path
) -> None:
    assert b'"protocol":1' in template.hello
    chosen = {
        "vsock_path": tmp_path / "chosen.sock",
        "log_path": tmp_path / "log",
        "metrics_path": tmp_path / "metrics",
    }
    async with await driver.clone(template, at(tmp_path, "one", **chosen)) as vm:
        assert (tmp_path / "one").stat().st_mode & 0o777 == 0o700
        with await vm.connect(PATIENCE_S) as end:
            assert template.hello in end.recv(65536)
        assert chosen["vsock_path"].is_socket()
        # Each connection begins with a HELLO of its own.
        with await vm.connect(PATIENCE_S) as end:
            assert template.hello in end.recv(65536)
        for step in (vm.pause, vm.pause, vm.resume, vm.resume):
            await step()
        ended = vm.ended
    assert ended.done()
    await vm.stop()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "metrics"]
    assert "Firecracker" in chosen["log_path"].read_text()


async def test_two_clones_live_side_by_side(
    driver: FirecrackerDriver, template: Template, tmp_path: Path
) -> None:
    async with (
        await driver.clone(template, at(tmp_path, "one")) as one,
        await driver.clone(template, at(tmp_path, "other")) as other,
    ):
        assert one.pid != other.pid
        for vm in (one, other):
            (await vm.connect(PATIENCE_S)).close()
        await one.stop()
        (await other.connect(PATIENCE_S)).close()
    assert list(tmp_path.iterdir()) == []


async def test_a_snapshot_of_a_clone_can_be_cloned_again(
    driver: FirecrackerDriver, template: Template, tmp_path: Path
) -> None:
    async with await driver.clone(template, at(tmp_path, "one")) as vm:
        (await vm.connect(PATIENCE_S)).close()
        await vm.pause()
        again = await vm.snapshot(tmp_path / "again")
    await driver.open_template(template.spec, template.directory)  # it is as it was
    opened = await driver.open_template(again.spec, again.directory)
    async with await driver.clone(opened, at(tmp_path, "two")) as vm:
        (await vm.connect(PATIENCE_S)).close()


async def test_the_files_of_a_template_are_closed_to_others(template: Template) -> None:
    assert template.directory.stat().st_mode & 0o777 == 0o700
    for path in template.directory.iterdir():
        assert path.stat().st_mode & 0o037 == 0, path


def flip(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(12345)
        byte = file.read(1)
        file.seek(12345)
        file.write(bytes([byte[0] ^ 1]))


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("name", ["vmstate", "memory"])
@pytest.mark.parametrize("alter", [flip, truncate, Path.unlink])
async def test_SS_02_an_altered_template_is_not_resumed(
    driver: FirecrackerDriver,
    template: Template,
    tmp_path: Path,
    name: str,
    alter: Callable[[Path], None],
) -> None:
    async with await driver.clone(template, at(tmp_path, "one")) as vm:
        await vm.pause()
        own = await vm.snapshot(tmp_path / "own")
    opened = await driver.open_template(own.spec, own.directory)
    alter(own.directory / name)
    with pytest.raises(SandboxError, match=r"altered|cannot be used"):
        await driver.clone(opened, at(tmp_path, "two"))
    with pytest.raises(SandboxError, match="cannot be used"):
        await driver.open_template(own.spec, own.directory)
    assert not (tmp_path / "two").exists()


async def test_a_monitor_that_is_killed_is_told_and_leaves_nothing(
    driver: FirecrackerDriver, template: Template, tmp_path: Path
) -> None:
    async with await driver.clone(template, at(tmp_path, "one")) as vm:
        os.kill(vm.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            await asyncio.shield(vm.ended)
        with pytest.raises(SandboxError, match="Firecracker ended"):
            await vm.connect(PATIENCE_S)
        with pytest.raises(SandboxError, match="gone, at PATCH /vm"):
            await vm.pause()
    assert list(tmp_path.iterdir()) == []


async def test_a_monitor_that_hangs_is_killed_at_the_step_s_deadline(
    driver: FirecrackerDriver, template: Template, tmp_path: Path
) -> None:
    async with await driver.clone(template, at(tmp_path, "one")) as vm:
        os.kill(vm.pid, signal.SIGSTOP)
        with pytest.raises(SandboxError, match="did not answer PATCH /vm within"):
            await vm.pause()
        async with asyncio.timeout(5):
            await asyncio.shield(vm.ended)
    assert list(tmp_path.iterdir()) == []


async def test_a_guest_that_panics_ends_with_its_last_words(
    driver: FirecrackerDriver, spec: VmSpec, tmp_path: Path
) -> None:
    broken = tmp_path / "rootfs"
    broken.write_bytes(bytes(1 << 20))
    broken_spec = VmSpec(spec.kernel, spec.initrd, broken)
    async with await driver.boot(broken_spec, at(tmp_path, "one")) as vm:
        with pytest.raises(SandboxError, match="no ext4 file system") as caught:
            await vm.connect(PATIENCE_S)
        assert caught.value.code is ErrorCode.SANDBOX_CRASH


async def test_the_whole_runtime_works_through_firecracker(config: Path, home: Path) -> None:
    runtime = build_runtime("microvm", config, home / "state")
    try:
        probe = await runtime.probe()
        assert "firecracker 1.16.1" in probe.version, probe.reason
        async with await runtime.start(SandboxSpec(pids=32)) as sandbox:
            outcome = await sandbox.run(Call("calculator", {"expression": "6 * 7"}))
            assert outcome.value == 42
    finally:
        await runtime.close()
