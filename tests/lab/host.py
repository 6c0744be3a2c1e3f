"""The lab: a host with KVM, vsock and control groups of version 2, emulated, so that none of it
has to be on the real one.

QEMU's emulation gives its guest AMD's virtualization (SVM with nested paging), and the
guest's kernel makes a /dev/kvm of it that runs machines. All of it is slow and real.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .disks import Base

DEADLINE_S = 900.0
"""The scenarios take two to five minutes on two idle processors."""
# Without cx16: an interrupt that follows the instruction finds flags of nobody's making
# under QEMU 7.2's emulation, and current kernels use it for every allocation.
_PROCESSOR = "max,+svm,+npt,-cx16"
_KERNEL_ARGUMENTS = "console=ttyS0 panic=-1 tsc=reliable no_timer_check mitigations=off"


@dataclass(frozen=True)
class Report:
    """What the scenarios said. `facts`: scenario -> what it saw; `errors`: of those that
    failed; `console`: all that the lab's kernel and programs wrote."""

    facts: dict[str, dict[str, Any]]
    errors: dict[str, str]
    console: str


def run_lab(
    base: Base, tested: Path, directory: Path, scenarios: str, processors: int = 1
) -> Report:
    """Boot the lab, let every scenario run, and read its report. `scenarios`: the program in
    `tested` that has them; `processors`: one where machines are started, for kvm patches its
    own code meanwhile, and a second emulated processor has been seen to run into the half of
    it ("Oops: int3")."""
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
            *("-display", "none", "-machine", "q35", "-cpu", _PROCESSOR, "-smp", str(processors)),
            *("-accel", "tcg,thread=multi,tb-size=512", "-m", "3G"),
            *("-kernel", str(base.kernel), "-initrd", str(base.initrd), *disks),
            *("-append", f"{_KERNEL_ARGUMENTS} scenarios={scenarios}"),
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


def seen(report: Report, scenario: str) -> dict[str, Any]:
    """What it saw. Fails the test where there is none."""
    if scenario not in report.facts:
        error = report.errors.get(scenario, "it was not come to")
        pytest.fail(f"{scenario}: {error}\nThe lab's console:\n{report.console[-6000:]}")
    return report.facts[scenario]


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
