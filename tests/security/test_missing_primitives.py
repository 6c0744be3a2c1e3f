"""SC-01: what a policy needs and this host lacks is refused; nothing weaker is used instead.

Each primitive is really taken away: system calls by a filter around the daemon and all
that it starts, control groups and programs by being nowhere to be found.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from doubles.firecracker_install import install_firecracker
from mas_sandbox.policy.controls import required_controls
from mas_sandbox.policy.grants import PathGrant
from mas_sandbox.policy.model import Policy
from mas_sandbox.runtimes.base import ControlStatus, Probe, Runtime, SandboxSpec
from mas_sandbox.runtimes.cgroup import Cgroups
from mas_sandbox.runtimes.gvisor import programs
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.microvm.config import MicrovmConfig, Vmm
from mas_sandbox.runtimes.microvm.runtime import MicrovmRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.server.walls import Wall, Walls
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

pytestmark = pytest.mark.anyio

WITHOUT = Path(__file__).parent.parent / "doubles" / "without.py"
NUMBERS = {
    "x86_64": {"prctl": 157, "setns": 308, "unshare": 272},
    "aarch64": {"prctl": 167, "setns": 268, "unshare": 97},
}.get(platform.machine(), {})
LANDLOCK = 444  # landlock_create_ruleset, on every architecture


@dataclass(frozen=True)
class Found:
    """What a daemon found that the kernel refuses some calls."""

    available: bool
    reason: str
    mend: str
    lacking: dict[str, str]
    starts: dict[str, str]

    @property
    def probe(self) -> Probe:
        """The same, as it was before it was told."""
        controls = {
            control: ControlStatus(control not in self.lacking, "", self.lacking.get(control, ""))
            for control in Control
        }
        return Probe(self.available, "", self.reason, self.mend, controls)


def without(directory: Path, *calls: str) -> Found:
    """A jail's probe, in a process of its own."""
    for parent in directory.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    done = subprocess.run(
        [sys.executable, str(WITHOUT), str(directory / "locks"), *calls],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Found(**json.loads(done.stdout))


def refusal(runtime: Runtime, probe: Probe, policy: Policy) -> str:
    """Why a call under this policy is refused where there is no other runtime."""
    walls = Walls([Wall.standing(Pool(runtime, 0), probe)])
    with pytest.raises(SandboxError) as refused:
        walls.choose(policy.min_isolation, required_controls(policy))
    assert refused.value.code is ErrorCode.POLICY_UNENFORCEABLE
    return refused.value.message


def test_with_everything_in_place_nothing_is_lacking(tmp_path: Path) -> None:
    """What the other tests take away is there to be taken."""
    found = without(tmp_path)
    assert found.available
    assert not {"paths", "disk_files", "syscalls"} & found.lacking.keys()
    assert set(found.starts.values()) == {""}


async def test_without_landlock_a_policy_with_paths_is_refused(
    tmp_path: Path, jail: Runtime
) -> None:
    found = without(tmp_path, f"{LANDLOCK}:ENOSYS")
    assert found.available
    assert found.starts["none"] == ""
    policy = Policy(paths=(PathGrant(path="/workspace/project", mode="rw"),))
    assert "Landlock" in refusal(jail, found.probe, policy)


def test_without_seccomp_there_is_no_jail(tmp_path: Path) -> None:
    found = without(tmp_path, f"{NUMBERS['prctl']}=22:EINVAL")
    assert not found.available
    assert "SECCOMP" in found.reason
    assert found.starts["none"].startswith("sandbox_crash")


def test_without_user_namespaces_there_is_no_jail(tmp_path: Path) -> None:
    found = without(tmp_path, f"{NUMBERS['unshare']}:EPERM")
    assert not found.available
    assert found.mend
    assert found.starts["none"].startswith("sandbox_crash")


def test_without_a_way_into_the_jails_mounts_disk_files_alone_is_refused(tmp_path: Path) -> None:
    found = without(tmp_path, f"{NUMBERS['setns']}:EPERM")
    assert found.available
    assert "disk_files" in found.lacking
    assert "disk" not in found.lacking
    assert found.starts["disk_files"].startswith("policy_unenforceable")
    assert found.starts["none"] == ""


@pytest.mark.parametrize(
    "policy",
    [
        Policy(mem_mb=64),
        Policy(cpus=1.0),
        Policy(pids=16),
        Policy(cpu_ms=1000),
        Policy(io_mb_s=10),
        Policy(iops=100),
    ],
    ids=lambda policy: str(policy.model_dump(exclude_none=True)),
)
async def test_without_control_groups_their_limits_are_refused(
    tmp_path_factory: pytest.TempPathFactory, policy: Policy, ungrouped: tuple[Runtime, Probe]
) -> None:
    runtime, probe = ungrouped
    assert probe.available
    message = refusal(runtime, probe, policy)
    assert "Delegate=yes" in message


@pytest.fixture(scope="module")
async def ungrouped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Runtime, Probe]:
    """A jail on a host where no control group can be made."""
    ownership = Ownership(tmp_path_factory.mktemp("locks"))
    runtime = JailRuntime(ownership, Cgroups(ownership, []))
    return runtime, await runtime.probe()


async def test_without_runsc_a_policy_that_asks_for_a_kernel_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "RUNSC_DIRECTORIES", (str(tmp_path),))
    runtime = GvisorRuntime(Ownership(tmp_path / "locks"))
    probe = await runtime.probe()
    assert not probe.available
    message = refusal(runtime, probe, Policy(min_isolation=Isolation.KERNEL))
    assert "runsc is not installed" in message
    with pytest.raises(SandboxError):
        await runtime.start(SandboxSpec())


@pytest.mark.parametrize("vmm", [Vmm.FIRECRACKER, Vmm.QEMU])
async def test_without_a_monitor_a_policy_that_asks_for_a_machine_is_refused(
    tmp_path: Path, vmm: Vmm
) -> None:
    missing = str(tmp_path / "missing")
    config = MicrovmConfig(vmm=vmm, firecracker_bin=missing, qemu_bin=missing)
    runtime = MicrovmRuntime(Ownership(tmp_path / "locks"), tmp_path / "machines", config)
    probe = await runtime.probe()
    assert not probe.available
    assert "install" in refusal(runtime, probe, Policy(min_isolation=Isolation.VM))
    await runtime.close()


async def test_without_kvm_a_monitor_that_needs_it_is_refused(tmp_path: Path) -> None:
    """Firecracker answers the start of its guest with a fault where there is none."""
    for parent in tmp_path.parents[:-2]:
        parent.chmod(parent.stat().st_mode | 0o011)
    program = install_firecracker(tmp_path / "firecracker", "fault")
    config = MicrovmConfig(vmm=Vmm.FIRECRACKER, firecracker_bin=str(program))
    runtime = MicrovmRuntime(Ownership(tmp_path / "locks"), tmp_path / "machines", config)
    probe = await runtime.probe()
    assert not probe.available
    assert "KVM" in refusal(runtime, probe, Policy(min_isolation=Isolation.VM))
    await runtime.close()


async def test_no_machine_is_no_reason_to_run_in_a_jail(jail: Runtime) -> None:
    message = refusal(jail, await jail.probe(), Policy(min_isolation=Isolation.VM))
    assert "isolation" in message
