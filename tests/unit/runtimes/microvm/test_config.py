"""The microvm config file: what is taken, what is refused, and what a person is told."""

from __future__ import annotations

import json
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.runtimes.microvm.config import (
    CgroupConfig,
    MachineConfig,
    MicrovmConfig,
    Vmm,
    load_config,
)
from mas_sandbox.wire.errors import ErrorCode, SandboxError

ROOT = Path(__file__).parents[4]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """A file of each kind that a config may name."""
    named = {}
    for name in ("kernel", "initrd", "rootfs", "disk"):
        (tmp_path / name).write_bytes(b"x")
        named[name] = str(tmp_path / name)
    program = tmp_path / "firecracker"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return named | {"firecracker": str(program), "place": str(tmp_path)}


def full(files: dict[str, str]) -> dict[str, Any]:
    """Every field there is, each with a value that is not its default."""
    place = files["place"]
    return {
        "vmm": "firecracker",
        "firecracker_bin": files["firecracker"],
        "qemu_bin": files["firecracker"],
        "kernel_image": files["kernel"],
        "initrd": files["initrd"],
        "rootfs": files["rootfs"],
        "snapshot": place,
        "api_socket": f"{place}/api-{{id}}",
        "log_path": f"{place}/log-{{id}}",
        "metrics_path": f"{place}/metrics-{{id}}",
        "boot_args": "loglevel=3",
        "machine": {"vcpu_count": 2, "mem_mib": 512},
        "vsock": {"cid": 7, "port": 6000, "uds_path": f"{place}/v-{{id}}"},
        "tool_runner": {"command": "/opt/run", "args": ["-a", "-b"]},
        "network": {
            "enabled": False,
            "tap_device": "tap{id}",
            "mac_address": "02:00:00:00:00:01",
            "allowed_cidrs": ["192.0.2.0/24", "2001:db8::/32"],
            "allowed_hosts": ["api.example.org", "*.example.net"],
            "subnet": "10.9.0.0/16",
        },
        "drives": [{"id": "data", "path": files["disk"], "read_only": True}],
        "cgroup": {
            "path": "mas/{id}",
            "cpu_quota_us": 50_000,
            "cpu_period_us": 100_000,
            "cpu_weight": 50,
            "memory_max_bytes": 1 << 30,
            "pids_max": 64,
        },
        "pool": {"size": 1},
    }


def load(tmp_path: Path, document: object) -> MicrovmConfig:
    path = tmp_path / "microvm.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    path.chmod(0o600)
    return load_config(path)


def refusal(tmp_path: Path, document: object) -> str:
    with pytest.raises(SandboxError) as caught:
        load(tmp_path, document)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert "microvm.json" in caught.value.message
    return caught.value.message


def changed(files: dict[str, str], name: str, value: object) -> dict[str, Any]:
    document = full(files)
    *parents, last = name.split(".")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[last] = value
    return document


def test_every_field_of_a_full_file_is_kept(tmp_path: Path, files: dict[str, str]) -> None:
    config = load(tmp_path, full(files))
    assert config.vmm is Vmm.FIRECRACKER
    assert config.machine == MachineConfig(2, 512)
    assert config.vsock.port == 6000
    assert config.tool_runner.args == ("-a", "-b")
    assert config.network.allowed_cidrs == ("192.0.2.0/24", "2001:db8::/32")
    assert config.drives[0].path == files["disk"]
    assert config.cgroup == CgroupConfig("mas/{id}", 50_000, 100_000, 50, 1 << 30, 64)
    assert config.snapshot == files["place"]


def test_the_full_file_of_these_tests_has_every_field(files: dict[str, str]) -> None:
    def names(kind: Any, document: Any) -> None:
        assert {field.name for field in fields(kind)} == set(document)
        for field in fields(kind):
            value = getattr(kind, field.name, None)
            if is_dataclass(value):
                names(value, document[field.name])

    config = MicrovmConfig(cgroup=CgroupConfig(""))
    names(config, full(files))


def test_an_empty_file_means_the_built_image(tmp_path: Path) -> None:
    assert load(tmp_path, {}) == MicrovmConfig()


def test_yaml_is_read_as_strictly(tmp_path: Path) -> None:
    path = tmp_path / "microvm.yaml"
    path.write_text("vmm: qemu\nmachine:\n  mem_mib: 512\n")
    path.chmod(0o600)
    assert load_config(path).machine.mem_mib == 512
    path.write_text("pool: {size: 1}\npool: {size: 2}\n")
    with pytest.raises(SandboxError, match=r"line 2.*there twice"):
        load_config(path)


def test_the_example_in_scripts_is_a_valid_file_but_for_its_paths(tmp_path: Path) -> None:
    example = json.loads((ROOT / "scripts/microvm/microvm_config.example.json").read_text())
    program = tmp_path / "firecracker"
    for name in ("kernel_image", "initrd", "rootfs", "firecracker_bin"):
        example[name] = str(program)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for name in ("api_socket", "log_path", "metrics_path"):
        example[name] = str(tmp_path / Path(example[name]).name)
    example["vsock"]["uds_path"] = str(tmp_path / Path(example["vsock"]["uds_path"]).name)
    assert load(tmp_path, example).pool.size > 1


def test_the_reference_names_every_field() -> None:
    reference = (ROOT / "docs/microvm.md").read_text()

    def check(kind: Any, prefix: str) -> None:
        for field in fields(kind):
            value = getattr(kind, field.name)
            if is_dataclass(value):
                check(value, f"{prefix}{field.name}.")
            else:
                assert f"`{prefix}{field.name}`" in reference

    check(MicrovmConfig(cgroup=CgroupConfig("")), "")


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("kernal", "x", "kernal is not a field of this file"),
        ("machine.cpus", 1, r"machine.cpus is not a field .*vcpu_count"),
        ("machine.vcpu_count", "2", "machine.vcpu_count must be a whole number"),
        ("machine.vcpu_count", True, "machine.vcpu_count must be a whole number"),
        ("machine.vcpu_count", 33, "machine.vcpu_count must be from 1 to 32"),
        ("machine.mem_mib", 8, "machine.mem_mib must be from 64"),
        ("machine", [], "machine must be an object"),
        ("vmm", "xen", "vmm must be one of auto, firecracker, qemu"),
        ("vsock.cid", 2, "vsock.cid must be from 3"),
        ("vsock.port", 0, "vsock.port must be from 1"),
        ("kernel_image", "/nowhere/vmlinux", "kernel_image: /nowhere/vmlinux: No such file"),
        ("rootfs", "/dev", "rootfs: /dev is not a file"),
        ("snapshot", "/nowhere", "snapshot: /nowhere is not a directory"),
        ("firecracker_bin", "/nowhere/fc", "firecracker_bin: /nowhere/fc is not an executable"),
        ("api_socket", "api-{id}", "api_socket must be an absolute path"),
        ("log_path", "/nowhere/log-{id}", "log_path: nothing can be made in /nowhere"),
        ("metrics_path", "/tmp/{id}/m", "metrics_path: {id} belongs into the last part"),
        ("network.enabled", 1, "network.enabled must be true or false"),
        ("network.tap_device", "a/b", "network.tap_device: 'a/b' is not a device's name"),
        ("network.mac_address", "01:00:00:00:00:01", "network.mac_address: .* is a multicast"),
        ("network.mac_address", "02-00", "network.mac_address: '02-00' is not of the form"),
        ("network.allowed_cidrs", ["10.0.0.1/8"], r"network.allowed_cidrs\[0\]: .*host bits"),
        ("network.allowed_cidrs", "10.0.0.0/8", "network.allowed_cidrs must be a list"),
        ("network.tap_device", "tap-of-{id}-x", "network.tap_device: .*at most 15, of which"),
        ("network.tap_device", "all", "network.tap_device: 'all' is not a device's name"),
        ("network.allowed_hosts", ["*.org"], r"network.allowed_hosts\[0\]: .*top-level domain"),
        ("network.subnet", "10.0.0.0/31", "network.subnet: 10.0.0.0/31 has no room"),
        ("network.subnet", "fd00::/64", "network.subnet: "),
        ("drives", [{"id": "a"}], r"drives\[0\].path is missing"),
        ("drives", [{"id": "rootfs", "path": "/dev/null"}], r"drives\[0\].id: 'rootfs' is taken"),
        ("drives", [{"id": "a b", "path": "/dev/null"}], r"drives\[0\].id: 'a b' is not"),
        ("drives", [{"id": "a", "path": "/nowhere"}], r"drives\[0\].path: /nowhere: No such"),
        ("cgroup.path", "../x", "cgroup.path: '../x' does not name"),
        ("cgroup.cpu_weight", 0, "cgroup.cpu_weight must be from 1"),
        ("cgroup.memory_max_bytes", 1 << 20, "cgroup.memory_max_bytes must be over machine"),
        ("pool.size", 0, "pool.size must be from 1"),
        ("boot_args", "a\nb", "boot_args must be printable"),
        ("boot_args", "x" * 2000, "boot_args is over"),
        ("tool_runner.command", "run", "tool_runner.command must be a path in the guest"),
        ("tool_runner.command", None, "tool_runner.args needs tool_runner.command"),
        ("tool_runner.args", ["a b"], r"tool_runner.args\[0\] cannot hold spaces"),
        ("rootfs", "a\0b", "rootfs must not contain NUL"),
    ],
)
def test_a_bad_value_is_named_with_its_field(
    tmp_path: Path, files: dict[str, str], name: str, value: object, told: str
) -> None:
    assert re.search(told, refusal(tmp_path, changed(files, name, value)))


@pytest.mark.parametrize(
    "name", ["api_socket", "vsock.uds_path", "log_path", "metrics_path", "network.tap_device"]
)
def test_two_machines_cannot_share_what_is_one_machine_s(
    tmp_path: Path, files: dict[str, str], name: str
) -> None:
    value = "tap0" if name.endswith("device") else f"{files['place']}/same"
    document = changed(files, name, value)
    del document["network"]["mac_address"]
    load(tmp_path, document)
    document["pool"]["size"] = 2
    assert f"{name} is " in refusal(tmp_path, document)
    assert "put {id} into it" in refusal(tmp_path, document)


def test_writable_drives_and_groups_of_a_pool_need_an_id(
    tmp_path: Path, files: dict[str, str]
) -> None:
    document = changed(files, "pool.size", 2)
    del document["network"]
    load(tmp_path, document)
    document["drives"][0]["read_only"] = False
    assert "drives[0].path is " in refusal(tmp_path, document)
    document["drives"][0]["read_only"] = True
    document["cgroup"]["path"] = "mas/all"
    assert "cgroup.path is " in refusal(tmp_path, document)


def test_an_enabled_network_needs_its_device_and_can_only_reach_ipv4(
    tmp_path: Path, files: dict[str, str]
) -> None:
    document = changed(files, "network", {"enabled": True})
    assert "network.tap_device is required" in refusal(tmp_path, document)
    document["network"]["tap_device"] = "tap{id}"
    assert load(tmp_path, document).network.enabled
    document["network"]["allowed_cidrs"] = ["192.0.2.0/24", "2001:db8::/32"]
    assert r"network.allowed_cidrs[1]: 2001:db8::/32 cannot be" in refusal(tmp_path, document)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"pool": {"size": 1}, "pool": {"size": 2}}', "duplicate key 'pool'"),
        ('{"machine": {"mem_mib": NaN}}', "NaN is not JSON"),
        ("[]", "the file must be an object"),
        ("{", "no JSON value|Expecting"),
        ('{"boot_args": "' + "x" * 300_000 + '"}', "is over"),
    ],
)
def test_what_is_not_plain_json_is_refused(tmp_path: Path, text: str, told: str) -> None:
    assert re.search(told, refusal(tmp_path, text))


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "microvm.json"
    path.write_text("{}")
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(SandboxError, match="run: chmod go-w"):
            load_config(path)
    path.chmod(0o644)
    load_config(path)


def test_what_is_not_a_file_is_refused_without_waiting(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="cannot be read: No such file"):
        load_config(tmp_path / "none.json")
    with pytest.raises(SandboxError, match="is not a regular file"):
        load_config(tmp_path)


def test_the_id_expands_everywhere(tmp_path: Path, files: dict[str, str]) -> None:
    config = load(tmp_path, full(files)).for_vm("vm7")
    assert "{id}" not in repr(config)
    assert config.vsock.uds_path == f"{files['place']}/v-vm7"
    assert config.network.tap_device == "tapvm7"
    assert config.cgroup is not None
    assert config.cgroup.path == "mas/vm7"
    assert config.vmm is Vmm.FIRECRACKER


def test_the_kernel_is_told_of_another_tool_runner() -> None:
    assert MicrovmConfig(boot_args="a=b").kernel_words == "a=b"
    assert MicrovmConfig().kernel_words == ""
