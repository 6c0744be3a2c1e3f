"""The lab: a host with KVM and vsock, emulated, so that neither has to be on the real one.

QEMU's emulation gives its guest AMD's virtualization (SVM with nested paging), and the
guest's kernel makes a /dev/kvm of it that runs machines. All of it is slow and real.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .disks import Base

DEADLINE_S = 900.0
"""The scenarios take a minute or two on two idle processors."""
# Without cx16: an interrupt that follows the instruction finds flags of nobody's making
# under QEMU 7.2's emulation, and current kernels use it for every allocation.
_PROCESSOR = "max,+svm,+npt,-cx16"
# One of them: kvm patches its own code while machines start, and a second emulated processor
# has been seen to run into the half of it ("Oops: int3").
_PROCESSORS = "1"


@dataclass(frozen=True)
class Report:
    """What the scenarios said. `facts`: scenario -> what it saw; `errors`: of those that
    failed; `console`: all that the lab's kernel and programs wrote."""

    facts: dict[str, dict[str, Any]]
    errors: dict[str, str]
    console: str


def run_lab(base: Base, tested: Path, directory: Path) -> Report:
    """Boot the lab, let every scenario run, and read its report."""
    console, report = directory / "console", directory / "report"
    disks = [
        argument
        for number, disk in enumerate((base.root, tested))
        for argument in (
            *("-drive", f"id=disk{number},file={disk},format=raw,if=none,readonly=on"),
            *("-device", f"virtio-blk-pci,drive=disk{number}"),
        )
    ]
    process = subprocess.Popen(
        [
            *("nice", "qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot"),
            *("-display", "none", "-machine", "q35", "-cpu", _PROCESSOR, "-smp", _PROCESSORS),
            *("-accel", "tcg,thread=multi,tb-size=512", "-m", "3G"),
            *("-kernel", str(base.kernel), "-initrd", str(base.initrd), *disks),
            *("-append", "console=ttyS0 panic=-1 tsc=reliable no_timer_check mitigations=off"),
            *("-device", "virtio-rng-pci"),
            *("-serial", f"file:{console}", "-serial", f"file:{report}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        process.wait(DEADLINE_S)
    except subprocess.TimeoutExpired:
        pass  # what it reported until then is told
    finally:
        process.kill()
        process.wait()
    return _read(report.read_text("utf-8", "replace"), console.read_text("utf-8", "replace"))


def _read(report: str, console: str) -> Report:
    facts: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    for line in report.splitlines():
        said = json.loads(line)
        print(f"lab: {line}")
        if "error" in said:
            errors[said["name"]] = said["error"]
        else:
            facts[said["name"]] = said["facts"]
    return Report(facts, errors, console)
