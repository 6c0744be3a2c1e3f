"""What a config file's values must be, on this host and with each other."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
import stat
from pathlib import Path

from .config import FIRST_GUEST_CID, ID, MicrovmConfig, shared_between_machines

MAX_VCPUS = 32
"""Firecracker's bound."""
LAST_NUMBER = 2**32 - 2
"""2^32 - 1 means "any" for a CID and for a port (vsock(7))."""
MAX_BOOT_ARGS = 1024
"""Half of the kernel's command line on x86 (COMMAND_LINE_SIZE); the rest is the driver's."""
_TAP = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_DRIVE = re.compile(r"[A-Za-z0-9_]{1,20}")


def check(config: MicrovmConfig) -> None:
    """Raises ValueError naming the first field that cannot be, and what to do about it."""
    _check_machine(config)
    _check_files(config)
    _check_outputs(config)
    _check_network(config)
    _check_drives(config)
    _check_cgroup(config)
    if config.pool.size > 1:
        for name, value in shared_between_machines(config):
            raise ValueError(
                f"{name} is {value!r} for each of pool.size {config.pool.size} machines; "
                "put {id} into it"
            )


def _between(name: str, value: int | None, lowest: int, highest: int) -> None:
    if value is not None and not lowest <= value <= highest:
        raise ValueError(f"{name} must be from {lowest} to {highest}, not {value}")


def _check_machine(config: MicrovmConfig) -> None:
    _between("machine.vcpu_count", config.machine.vcpu_count, 1, MAX_VCPUS)
    _between("machine.mem_mib", config.machine.mem_mib, 64, 1024 * 1024)
    _between("vsock.cid", config.vsock.cid, FIRST_GUEST_CID, LAST_NUMBER)
    _between("vsock.port", config.vsock.port, 1, LAST_NUMBER)
    _between("pool.size", config.pool.size, 1, 1024)
    if len(config.boot_args) > MAX_BOOT_ARGS:
        raise ValueError(f"boot_args is over {MAX_BOOT_ARGS} characters")
    for name, text in _command_line(config):
        if not text.isascii() or not text.isprintable():
            raise ValueError(f"{name} must be printable ASCII: it goes on the kernel command line")
    for name, text in _command_line(config)[1:]:
        if " " in text or '"' in text:
            raise ValueError(f"{name} cannot hold spaces or quotes; wrap it in a script")
    if config.tool_runner.args and config.tool_runner.command is None:
        raise ValueError(
            "tool_runner.args needs tool_runner.command: say which program they are for"
        )
    command = config.tool_runner.command
    if command is not None and not command.startswith("/"):
        raise ValueError(f"tool_runner.command must be a path in the guest, not {command!r}")


def _command_line(config: MicrovmConfig) -> list[tuple[str, str]]:
    runner = config.tool_runner
    words = [("boot_args", config.boot_args), ("tool_runner.command", runner.command or "")]
    return words + [(f"tool_runner.args[{n}]", text) for n, text in enumerate(runner.args)]


def _check_files(config: MicrovmConfig) -> None:
    _check_program("firecracker_bin", config.firecracker_bin, required=config.vmm == "firecracker")
    if config.qemu_bin is not None:
        _check_program("qemu_bin", config.qemu_bin, required=True)
    for name in ("kernel_image", "initrd", "rootfs"):
        _check_readable(name, getattr(config, name))
    if config.rootfs is not None and config.kernel_image is None:
        raise ValueError(
            "rootfs needs kernel_image: the built image's kernel is for its own rootfs"
        )
    if config.snapshot is not None and not Path(config.snapshot).is_dir():
        raise ValueError(
            f"snapshot: {config.snapshot} is not a directory; name one that holds a template, "
            "or leave the field out to have one made"
        )


def _check_program(name: str, value: str, required: bool) -> None:
    named = "/" in value
    if (named or required) and shutil.which(value) is None:
        what = "is not an executable file" if named else "is not in PATH"
        raise ValueError(f"{name}: {value} {what}; install it, or name where it is")


def _check_readable(name: str, value: str | None, what: int = os.R_OK) -> None:
    if value is None:
        return
    try:
        mode = Path(value).stat().st_mode
    except OSError as error:
        raise ValueError(
            f"{name}: {value}: {error.strerror}; name the file, or leave the field out "
            "for the built image"
        ) from error
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise ValueError(f"{name}: {value} is not a file")
    if not os.access(value, what):
        right = "w" if what & os.W_OK else "r"
        raise ValueError(f"{name}: {value} is closed to this user; run: chmod u+{right} {value}")


def _check_outputs(config: MicrovmConfig) -> None:
    for name, value in (
        ("api_socket", config.api_socket),
        ("vsock.uds_path", config.vsock.uds_path),
        ("log_path", config.log_path),
        ("metrics_path", config.metrics_path),
    ):
        if value is None:
            continue
        if not value.startswith("/"):
            raise ValueError(f"{name} must be an absolute path, not {value!r}")
        parent = Path(value).parent
        if ID in str(parent):
            raise ValueError(f"{name}: {{id}} belongs into the last part of {value!r}")
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ValueError(f"{name}: nothing can be made in {parent}; run: mkdir -p {parent}")


def _check_network(config: MicrovmConfig) -> None:
    network = config.network
    if network.enabled and network.tap_device is None:
        raise ValueError("network.tap_device is required when network.enabled is true")
    device = network.tap_device
    # `all` and `default` are no devices but settings of every device (ip-sysctl.rst).
    if device is not None and (
        not _TAP.fullmatch(device.replace(ID, "0" * 8)) or device in ("all", "default")
    ):
        raise ValueError(
            f"network.tap_device: {device!r} is not a device's name (a letter, then letters, "
            "digits, '_', '.' and '-': at most 15, of which {id} is 8)"
        )
    mac = network.mac_address
    if mac is not None and not _MAC.fullmatch(mac.replace(ID, "00")):
        raise ValueError(f"network.mac_address: {mac!r} is not of the form 02:00:00:00:00:01")
    if mac is not None and ID not in mac and int(mac[:2], 16) & 1:
        raise ValueError(
            f"network.mac_address: {mac} is a multicast address; make the first byte even"
        )
    for number, text in enumerate(network.allowed_cidrs):
        try:
            block = ipaddress.ip_network(text)
        except ValueError as error:
            raise ValueError(f"network.allowed_cidrs[{number}]: {error}") from error
        if network.enabled and block.version != 4:
            raise ValueError(
                f"network.allowed_cidrs[{number}]: {text} cannot be reached: IPv6 is off on a "
                "machine's device; leave it out"
            )
    _check_subnet(network.subnet)
    _check_hosts(network.allowed_hosts)


def _check_subnet(text: str) -> None:
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise ValueError(f"network.subnet: {error}") from error
    if subnet.prefixlen > 30 or subnet.is_loopback or subnet.is_multicast:
        raise ValueError(
            f"network.subnet: {text} has no room for a link of four addresses; name a block of "
            "/30 or wider that nothing else uses"
        )


def _check_hosts(patterns: tuple[str, ...]) -> None:
    if not patterns:
        return
    from pydantic import ValidationError  # takes 45 ms to import

    from mas_sandbox.policy.grants import NetworkPolicy

    try:
        NetworkPolicy(hosts=patterns)
    except ValidationError as error:
        first = error.errors()[0]
        place = "".join(f"[{part}]" for part in first["loc"][1:])
        raise ValueError(
            f"network.allowed_hosts{place}: {first['msg'].removeprefix('Value error, ')}"
        ) from error


def _check_drives(config: MicrovmConfig) -> None:
    seen = {"rootfs"}
    for number, drive in enumerate(config.drives):
        name = f"drives[{number}]"
        if not _DRIVE.fullmatch(drive.id):
            raise ValueError(f"{name}.id: {drive.id!r} is not 1 to 20 letters, digits and '_'")
        if drive.id in seen:
            raise ValueError(f"{name}.id: {drive.id!r} is taken; give each drive an id of its own")
        seen.add(drive.id)
        if ID not in drive.path:
            access = os.R_OK if drive.read_only else os.R_OK | os.W_OK
            _check_readable(f"{name}.path", drive.path, access)


def _check_cgroup(config: MicrovmConfig) -> None:
    group = config.cgroup
    if group is None:
        return
    if ".." in group.path.split("/") or not group.path.strip("/"):
        raise ValueError(f"cgroup.path: {group.path!r} does not name a control group")
    # What the kernel takes: admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    _between("cgroup.cpu_period_us", group.cpu_period_us, 1000, 1_000_000)
    _between("cgroup.cpu_quota_us", group.cpu_quota_us, 1000, 2**40)
    _between("cgroup.cpu_weight", group.cpu_weight, 1, 10_000)
    _between("cgroup.pids_max", group.pids_max, 8, 2**22)
    if group.memory_max_bytes is not None:
        least = config.machine.mem_mib << 20
        if group.memory_max_bytes <= least:
            raise ValueError(
                f"cgroup.memory_max_bytes must be over machine.mem_mib, {least} bytes, with room "
                f"for the monitor itself; {least + (128 << 20)} would do"
            )
