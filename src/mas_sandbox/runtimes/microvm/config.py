"""The config file of `-runtime microvm`: what the operator says about the machines.

JSON, or YAML where the name does not end in `.json`. Every field is optional; each is
checked when the file is read, and an error names the field and the mend. `{id}` in a
value stands for the machine's own name (see `MicrovmConfig.for_vm`). docs/microvm.md is
the reference for people.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import TypeVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError

ID = "{id}"
DEFAULT_PORT = 5000
DEFAULT_SUBNET = "198.18.0.0/15"
"""For tests between networks (RFC 2544), and so nobody's address."""
FIRST_GUEST_CID = 3
"""0 to 2 are the hypervisor, the machine itself and the host (vsock(7))."""

Config = TypeVar("Config")


class Vmm(StrEnum):
    """Which monitor runs the machines. `auto`: Firecracker where it boots, else QEMU."""

    AUTO = "auto"
    FIRECRACKER = "firecracker"
    QEMU = "qemu"


@dataclass(frozen=True, slots=True)
class MachineConfig:
    """`mem_mib`: the guest's memory."""

    vcpu_count: int = 1
    mem_mib: int = 256


@dataclass(frozen=True, slots=True)
class VsockConfig:
    """`uds_path`: where the monitor's vsock socket is to be found while a machine runs."""

    cid: int = FIRST_GUEST_CID
    port: int = DEFAULT_PORT
    uds_path: str | None = None


@dataclass(frozen=True, slots=True)
class ToolRunnerConfig:
    """The program that the image's init starts. None: the toolrunner it carries."""

    command: str | None = None
    args: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A network device of the host's, for guests that need real networking.

    `{id}` is eight characters in `tap_device` and two digits in `mac_address`. A machine
    has it where `allowed_cidrs` and its policy's have something in common, and reaches
    that. `allowed_hosts`: what may be resolved, where the policy allows it too; `subnet`:
    where the addresses of the links to the machines are from.
    """

    enabled: bool = False
    tap_device: str | None = None
    mac_address: str | None = None
    allowed_cidrs: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    subnet: str = DEFAULT_SUBNET


@dataclass(frozen=True, slots=True)
class DriveConfig:
    """One more disk of every machine."""

    id: str
    path: str
    read_only: bool = True


@dataclass(frozen=True, slots=True)
class CgroupConfig:
    """A control group for each machine, monitor included. None is not limited."""

    path: str
    cpu_quota_us: int | None = None
    cpu_period_us: int = 100_000
    cpu_weight: int | None = None
    memory_max_bytes: int | None = None
    pids_max: int | None = None


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """`size`: how many machines are kept ready."""

    size: int = 1


@dataclass(frozen=True, slots=True)
class MicrovmConfig:
    """A config file that was read and checked; the default is what no file means.

    A path of None is the runtime's own choice: the built image, a directory of its own.
    `snapshot`: the directory of a template made earlier, which is then used, not made.
    """

    vmm: Vmm = Vmm.AUTO
    firecracker_bin: str = "firecracker"
    qemu_bin: str | None = None
    kernel_image: str | None = None
    initrd: str | None = None
    rootfs: str | None = None
    snapshot: str | None = None
    api_socket: str | None = None
    log_path: str | None = None
    metrics_path: str | None = None
    boot_args: str = ""
    machine: MachineConfig = MachineConfig()
    vsock: VsockConfig = VsockConfig()
    tool_runner: ToolRunnerConfig = ToolRunnerConfig()
    network: NetworkConfig = NetworkConfig()
    drives: tuple[DriveConfig, ...] = ()
    cgroup: CgroupConfig | None = None
    pool: PoolConfig = PoolConfig()

    @property
    def kernel_words(self) -> str:
        """`boot_args`, and what tells the image's init of another program to start."""
        runner = self.tool_runner
        words = [self.boot_args]
        if runner.command is not None:
            words.append(f"mas.command={runner.command}")
        return " ".join(filter(None, [*words, *(f"mas.arg={word}" for word in runner.args)]))

    def for_vm(self, identifier: str) -> MicrovmConfig:
        """The same with `{id}` replaced by one machine's name."""
        return _expanded(self, identifier)


def load_config(path: str | os.PathLike[str]) -> MicrovmConfig:
    """Read and check a config file.

    Raises SandboxError `invalid_request` naming the file, the field and the mend.
    """
    from .config_check import check
    from .config_read import read

    place = os.fspath(path)
    try:
        config = read(place)
        check(config)
    except ValueError as error:
        raise SandboxError(ErrorCode.INVALID_REQUEST, f"microvm config {place}: {error}") from error
    return config


def _expanded(value: Config, identifier: str) -> Config:
    assert is_dataclass(value) and not isinstance(value, type)
    changes = {
        field.name: _expand(getattr(value, field.name), identifier) for field in fields(value)
    }
    return replace(value, **changes)


def _expand(value: object, identifier: str) -> object:
    if isinstance(value, str) and not isinstance(value, StrEnum):
        return value.replace(ID, identifier)
    if isinstance(value, tuple):
        return tuple(_expand(item, identifier) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return _expanded(value, identifier)
    return value


def shared_between_machines(config: MicrovmConfig) -> Iterable[tuple[str, str]]:
    """(field, value) of what two machines would fight over, because it has no `{id}`."""
    own = [
        ("api_socket", config.api_socket),
        ("vsock.uds_path", config.vsock.uds_path),
        ("log_path", config.log_path),
        ("metrics_path", config.metrics_path),
        ("network.tap_device", config.network.tap_device),
        ("network.mac_address", config.network.mac_address),
        ("cgroup.path", config.cgroup.path if config.cgroup else None),
    ]
    own += [
        (f"drives[{number}].path", drive.path)
        for number, drive in enumerate(config.drives)
        if not drive.read_only
    ]
    return [(name, value) for name, value in own if value is not None and ID not in value]
