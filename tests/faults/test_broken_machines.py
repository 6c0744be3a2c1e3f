"""What a machine is made of is broken, or its guest is: told in time, with file or step and mend."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import census
from mas_sandbox.runtimes.base import Probe, SandboxSpec
from mas_sandbox.runtimes.microvm.image.store import find_image
from mas_sandbox.runtimes.microvm.qemu import driver as driver_module
from mas_sandbox.runtimes.microvm.runtime import MicrovmRuntime
from mas_sandbox.runtimes.select import build_runtime
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind

pytestmark = pytest.mark.anyio

SILENCE_S = 15.0
GIVEN_UP = f"no answer within {SILENCE_S:g} s"


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Any]:
    """A runtime with a config file of these fields, or none; nothing of it is left after the test."""
    descriptors = set(os.listdir("/proc/self/fd"))
    processes = set(census.children(os.getpid()))

    def built(fields: dict[str, Any] | None, state: Path = tmp_path) -> MicrovmRuntime:
        config = tmp_path / "config.json"
        config.write_text(json.dumps({"vmm": "qemu"} | (fields or {})))
        made = build_runtime("microvm", config if fields is not None else None, state)
        assert isinstance(made, MicrovmRuntime)
        return made

    yield built
    assert set(census.children(os.getpid())) == processes
    assert set(os.listdir("/proc/self/fd")) == descriptors
    assert list(tmp_path.glob("microvm/running/*")) == []


async def refused(runtime: MicrovmRuntime) -> Probe:
    """What a daemon with this runtime would say as it refuses to start."""
    found = await runtime.probe()
    await runtime.close()
    assert not found.available
    assert found.mend
    return found


@pytest.mark.parametrize("name", ["kernel_image", "rootfs"])
async def test_a_file_that_is_not_what_it_should_be_ends_the_boot(
    name: str, build: Any, tmp_path: Path
) -> None:
    image = find_image()
    files = {"kernel_image": image.kernel, "initrd": image.initrd, "rootfs": image.rootfs}
    (tmp_path / name).write_bytes(os.urandom(1 << 20))
    files[name] = tmp_path / name
    found = await refused(build({field: str(path) for field, path in files.items()}))
    assert "tcg: boot: " in found.reason


async def test_a_kernel_that_panics_is_told_with_why(build: Any) -> None:
    found = await refused(build({"boot_args": "rdinit=/none init=/none root=/dev/none"}))
    assert "Kernel panic - not syncing: VFS" in found.reason


def guest(program: str) -> dict[str, Any]:
    """A config whose machines run a program of Python as their toolrunner."""
    code = ",".join(str(byte) for byte in program.encode())
    words = ["-c", f"exec(bytes([{code}]))"]  # without a space, on the kernel's command line
    return {"tool_runner": {"command": "/usr/bin/python3", "args": words}}


HELLO = f"\\0\\0\\1\\0\\{Kind.HELLO:o}\\0\\0\\0\\0"
"""The head of a frame of 256 bytes, as a program in Python spells it."""


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("w(b'\\xff'*99)", "frame"),
        (f"w(b'{HELLO}'+b'1'*256)", "HELLO"),
        (f"w(b'{HELLO}')", GIVEN_UP),
        ("", GIVEN_UP),
    ],
    ids=["garbage", "garbage in a frame", "a frame that never ends", "nothing"],
)
async def test_a_guest_that_does_not_say_hello_is_given_up_in_time(
    program: str, told: str, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told == GIVEN_UP:  # else it is told as soon as it is heard
        monkeypatch.setitem(driver_module.PROBE_TIMEOUT_S, "tcg", SILENCE_S)
    opened = "w=open('/dev/virtio-ports/mas.channel','wb',0).write\n"
    started = time.monotonic()
    found = await refused(build(guest(f"{opened}{program}\nimport time\ntime.sleep(99)")))
    assert "tcg: boot: " in found.reason
    assert told in found.reason
    assert time.monotonic() - started < SILENCE_S + 30


async def test_a_snapshot_that_is_none_is_named_and_stays(build: Any, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    (snapshot / "manifest").write_bytes(os.urandom(100))
    runtime = build({"snapshot": str(snapshot)})
    assert (await runtime.probe()).available
    with pytest.raises(SandboxError, match=f"the snapshot {snapshot} cannot be used") as caught:
        await runtime.start(SandboxSpec())
    await runtime.close()
    assert caught.value.code is ErrorCode.SANDBOX_CRASH
    assert os.listdir(snapshot) == ["manifest"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a disk that is full")
async def test_a_full_disk_is_told_and_room_mends_it(build: Any, tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "small", state], check=True)
    try:
        runtime = build(None, state)
        with pytest.raises(SandboxError, match="No space left on device; make room there") as full:
            await runtime.start(SandboxSpec())
        assert str(state) in full.value.message
        assert full.value.code is ErrorCode.SANDBOX_CRASH
        assert not list(state.glob("**/memory"))
        subprocess.run(["mount", "-o", "remount,size=1g", state], check=True)
        await (await runtime.start(SandboxSpec())).stop()
        await runtime.close()
    finally:
        subprocess.run(["umount", "--lazy", state], check=True)
