"""What a probe keeps, when it asks again, and what it tells of machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.config import MicrovmConfig, Vmm
from mas_sandbox.runtimes.microvm.machine import MachinePlan
from mas_sandbox.runtimes.microvm.probe import fingerprint, probe_microvm
from mas_sandbox.runtimes.microvm.qemu import launch
from mas_sandbox.runtimes.microvm.qemu.driver import QemuDriver
from mas_sandbox.runtimes.microvm.vm import Place, VmSpec
from mas_sandbox.runtimes.ownership import EMULATED, Ownership
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.frames import Kind, encode
from mas_sandbox.wire.messages import PROTOCOL, Hello

pytestmark = pytest.mark.anyio

HELLO = Hello(protocol=PROTOCOL, pid=1, python="3.11", tools=[], controls=[]).encode()
MONITOR = """\
#!/bin/sh
case "$*" in
*version*) echo QEMU emulator version 7.2.22; exit ;;
*kvm*) echo no KVM here >&2; exit 1 ;;
esac
channel=$(echo "$*" | sed "s/.*id=channel,fd=\\([0-9]*\\).*/\\1/")
exec PYTHON -c "import os, sys, time; os.write(int(sys.argv[1]), bytes.fromhex('HELLO')); \
time.sleep(60)" $channel
"""


@pytest.fixture
def config(tmp_path: Path) -> MicrovmConfig:
    files = {}
    for name in ("kernel_image", "initrd", "rootfs"):
        files[name] = str(tmp_path / name)
        (tmp_path / name).write_bytes(b"")
    program = tmp_path / "qemu"
    hello = encode(Kind.HELLO, 0, HELLO).hex()
    program.write_text(MONITOR.replace("PYTHON", sys.executable).replace("HELLO", hello))
    program.chmod(0o755)
    return MicrovmConfig(vmm=Vmm.QEMU, qemu_bin=str(program), **files)


@pytest.fixture
def ownership(tmp_path: Path) -> Iterator[Ownership]:
    owner = Ownership(tmp_path / "locks")
    yield owner
    owner.close()


async def test_a_machine_that_is_emulated_is_told_with_what_did_not_boot(
    config: MicrovmConfig, ownership: Ownership, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mas_sandbox.runtimes.microvm.qemu import driver

    monkeypatch.setattr(driver, "KVM", tmp_path / "rootfs")
    plan = MachinePlan(ownership, tmp_path / "microvm", config)
    place = Place("vm1", tmp_path / "vm1")
    for _ in range(2):  # found, then kept
        found, _ = await probe_microvm(plan, {}, place, tmp_path)
        assert (found.available, found.taken_by_auto) == (True, False)
        assert (tmp_path / EMULATED).exists()
        assert found.facts["monitor"] == "qemu"
        assert found.facts["acceleration"] == "tcg"
        assert "no KVM here" in str(found.facts["not_booted"])
        assert found.facts["templates"] == []


async def test_what_was_found_is_asked_again_when_what_is_booted_changes(
    config: MicrovmConfig, tmp_path: Path
) -> None:
    driver = QemuDriver(config, tmp_path, vsock=False)
    spec = VmSpec(tmp_path / "kernel_image", tmp_path / "initrd", tmp_path / "rootfs")
    names = {fingerprint(driver, config, spec)}
    names.add(fingerprint(driver, config, replace(spec, boot_args="init=/none")))
    names.add(fingerprint(driver, config, replace(spec, initrd=None)))
    (tmp_path / "initrd").write_bytes(b"another")
    names.add(fingerprint(driver, config, spec))
    os.utime(tmp_path / "qemu", (1, 1))
    names.add(fingerprint(driver, config, spec))
    assert len(names) == 5


@pytest.mark.parametrize(
    ("mode", "group", "groups"), [(0o660, 104, (104,)), (0o666, 0, ()), (0o666, 104, ())]
)
def test_the_group_of_dev_kvm_is_given_where_it_opens_it(
    mode: int, group: int, groups: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "KVM", Device(mode, group))
    assert launch._kvm_groups("kvm", 1_900_000_000) == groups
    assert launch._kvm_groups("kvm", None) == ()
    assert launch._kvm_groups("tcg", 1_900_000_000) == ()


@pytest.mark.parametrize(("mode", "group"), [(0o600, 0), (0o660, 0), (0o640, 104)])
def test_a_dev_kvm_that_is_closed_to_machines_is_told_with_the_mend(
    mode: int, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "KVM", Device(mode, group))
    with pytest.raises(SandboxError, match="chgrp kvm"):
        launch._kvm_groups("kvm", 1_900_000_000)


class Device:
    """As far as a Path to a device is asked."""

    def __init__(self, mode: int, group: int) -> None:
        self._status = os.stat_result((0o020000 | mode, 0, 0, 1, 0, group, 0, 0, 0, 0))

    def stat(self) -> os.stat_result:
        return self._status
