"""Firecracker's driver against monitors that fail before a guest could come up.

With a guest it is tested in tests/conformance/test_firecracker_clones.py.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from doubles.firecracker_install import install_firecracker
from mas_sandbox.runtimes.identity import FIRST
from mas_sandbox.runtimes.microvm.config import MicrovmConfig
from mas_sandbox.runtimes.microvm.firecracker import api, monitor
from mas_sandbox.runtimes.microvm.firecracker.driver import FirecrackerDriver
from mas_sandbox.runtimes.microvm.firecracker.root import SHARED_GROUP, Root, add_spec
from mas_sandbox.runtimes.microvm.vm import Drive, Place, VmSpec
from mas_sandbox.wire.errors import ErrorCode, SandboxError

pytestmark = pytest.mark.anyio

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop to another user")


@pytest.fixture
def spec(tmp_path: Path) -> VmSpec:
    for name in ("vmlinux", "initrd.img", "rootfs.ext4"):
        (tmp_path / name).write_bytes(name.encode())
    return VmSpec(tmp_path / "vmlinux", tmp_path / "initrd.img", tmp_path / "rootfs.ext4")


def driver(tmp_path: Path, misbehave: str = "") -> FirecrackerDriver:
    program = install_firecracker(tmp_path / "bin", misbehave)
    return FirecrackerDriver(MicrovmConfig(firecracker_bin=str(program)), tmp_path)


def place(tmp_path: Path, **more: object) -> Place:
    return Place("vm-1", tmp_path / "vm-1", **more)  # type: ignore[arg-type]


async def refusal(made: FirecrackerDriver, spec: VmSpec, where: Place) -> str:
    with pytest.raises(SandboxError) as caught:
        await made.boot(spec, where)
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    assert not where.directory.exists()
    return caught.value.message


@pytest.mark.parametrize(
    ("misbehave", "told"),
    [
        ("exit", "Firecracker ended at its start; it said: the double was told to end"),
        ("garbage", "answered PUT /logger with garbage"),
        ("endless", "answered PUT /logger with garbage"),
        ("fault", "refused PUT /actions (500): Internal error: the double was told to fail"),
    ],
)
async def test_a_monitor_that_fails_is_named_with_its_step_and_leaves_nothing(
    tmp_path: Path, spec: VmSpec, misbehave: str, told: str
) -> None:
    assert told in await refusal(driver(tmp_path, misbehave), spec, place(tmp_path))


async def test_a_monitor_that_stops_answering_is_killed_at_its_deadline(
    tmp_path: Path, spec: VmSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "ANSWER_S", 0.3)
    told = await refusal(driver(tmp_path, "silent"), spec, place(tmp_path))
    assert "did not answer PUT /logger within 0.3 s" in told


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path, spec: VmSpec) -> None:
    starting = asyncio.create_task(driver(tmp_path, "silent").boot(spec, place(tmp_path)))
    async with asyncio.timeout(20):
        while not (tmp_path / "vm-1").exists():
            await asyncio.sleep(0.01)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not (tmp_path / "vm-1").exists()


async def test_a_missing_kernel_is_named(tmp_path: Path, spec: VmSpec) -> None:
    spec.kernel.unlink()
    told = await refusal(driver(tmp_path), spec, place(tmp_path))
    assert "PUT /boot-source (400): Boot source error: The kernel file cannot be opened" in told


async def test_a_socket_path_that_another_machine_has_is_refused(
    tmp_path: Path, spec: VmSpec
) -> None:
    taken = tmp_path / "api"
    taken.write_text("")
    told = await refusal(driver(tmp_path), spec, place(tmp_path, api_socket=taken))
    assert "api_socket" in told
    assert "put {id} in" in told
    assert taken.read_text() == ""


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Firecracker v1.9.1", "cannot clone a guest with a vsock"),
        ("Firecracker v1.16.0", "cannot clone a guest with a vsock"),
        ("hello", "is not Firecracker"),
    ],
)
async def test_a_program_that_will_not_do_is_refused_with_the_mend(
    tmp_path: Path, spec: VmSpec, said: str, told: str
) -> None:
    program = tmp_path / "firecracker"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    made = FirecrackerDriver(MicrovmConfig(firecracker_bin=str(program)), tmp_path)
    found = await made.probe(spec, place(tmp_path))
    assert not found.available
    assert told in found.reason
    assert "vmm to qemu" in found.mend


async def test_a_missing_program_is_found_out_by_the_probe(tmp_path: Path, spec: VmSpec) -> None:
    made = FirecrackerDriver(MicrovmConfig(firecracker_bin="/nowhere/firecracker"), tmp_path)
    found = await made.probe(spec, place(tmp_path))
    assert not found.available
    assert "/nowhere/firecracker is no program here" in found.reason
    assert "install Firecracker" in found.mend


async def test_a_key_changes_with_all_that_a_template_depends_on(
    tmp_path: Path, spec: VmSpec
) -> None:
    made = driver(tmp_path)
    key = made.template_key(spec)
    assert made.template_key(spec) == key
    elsewhere = tmp_path / "copy"
    shutil.copy(spec.rootfs, elsewhere)
    same = VmSpec(spec.kernel, spec.initrd, elsewhere)
    assert made.template_key(same) == key
    elsewhere.write_bytes(b"changed")
    keys = {key, made.template_key(same)}
    keys.add(made.template_key(VmSpec(spec.kernel, None, spec.rootfs)))
    keys.add(made.template_key(VmSpec(spec.kernel, spec.initrd, spec.rootfs, mem_mib=300)))
    keys.add(made.template_key(VmSpec(spec.kernel, spec.initrd, spec.rootfs, port=1)))
    program = tmp_path / "bin" / "firecracker"
    program.write_text(program.read_text() + "\n")
    keys.add(driver(tmp_path, "mute").template_key(spec))
    assert len(keys) == 6


async def test_a_template_that_is_not_there_is_refused(tmp_path: Path, spec: VmSpec) -> None:
    with pytest.raises(SandboxError, match="cannot be used"):
        await driver(tmp_path).open_template(spec, tmp_path / "none")


async def test_writable_drives_are_not_cloned(tmp_path: Path, spec: VmSpec) -> None:
    own = VmSpec(spec.kernel, spec.initrd, spec.rootfs, drives=(Drive("a", spec.rootfs, False),))
    with pytest.raises(SandboxError, match="writable drive cannot be cloned"):
        await driver(tmp_path).make_template(own, place(tmp_path), tmp_path / "template")


@needs_root
async def test_started_by_root_it_needs_the_jailer(
    tmp_path: Path, spec: VmSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = driver(tmp_path)
    (tmp_path / "bin" / "jailer").unlink()
    monkeypatch.setenv("PATH", "/nowhere")
    told = await refusal(made, spec, place(tmp_path, user=FIRST + 7))
    assert "needs its jailer" in told


@needs_root
async def test_a_jailed_monitor_finds_its_files_and_others_find_nothing(
    tmp_path: Path, spec: VmSpec
) -> None:
    spec.kernel.chmod(0o600)
    where = place(tmp_path, user=FIRST + 7)
    root = Root(where, tmp_path / "firecracker")
    root.make()
    add_spec(root, spec, booted=True)
    assert root.path == where.directory / "firecracker" / "vm-1" / "root"
    assert where.directory.stat().st_mode & 0o777 == 0o700
    kernel = (root.path / "vmlinux").stat()
    assert (kernel.st_uid, kernel.st_gid) == (FIRST + 7, SHARED_GROUP), "a copy of its own"
    assert (root.path / "rootfs").samefile(spec.rootfs), "readable to all, so shared"
    assert spec.rootfs.stat().st_uid == 0
    root.remove()
    assert not where.directory.exists()
    assert spec.rootfs.exists()


@needs_root
def test_the_jailer_is_told_to_confine(tmp_path: Path) -> None:
    root = Root(place(tmp_path, user=FIRST + 7), Path("/usr/bin/firecracker"))
    command = root.command(Path("/usr/bin/jailer"), 1 << 30)
    assert command[:4] == ["unshare", "--pid", "--fork", "--kill-child=SIGKILL"]
    told = " ".join(command)
    assert f"--uid {FIRST + 7} --gid {SHARED_GROUP}" in told
    assert f"--resource-limit fsize={1 << 30}" in told
    assert told.endswith("-- --api-sock api.sock")


async def test_an_api_that_dies_mid_way_is_told_as_gone(tmp_path: Path, spec: VmSpec) -> None:
    made = driver(tmp_path, "silent")
    starting = asyncio.create_task(made.boot(spec, place(tmp_path)))
    async with asyncio.timeout(10):
        while not (tmp_path / "vm-1" / "api.sock").exists():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        _kill_by_directory(tmp_path / "vm-1")
        with pytest.raises(SandboxError, match="Firecracker is gone, at PUT /logger"):
            await starting
    assert not (tmp_path / "vm-1").exists()
    assert api.ANSWER_S > 1


def _kill_by_directory(directory: Path) -> None:
    """End the process whose working directory this is."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            continue
