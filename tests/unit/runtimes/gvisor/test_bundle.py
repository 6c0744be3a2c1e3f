"""What runsc is told, as data."""

from __future__ import annotations

import errno
import json
from typing import Any

from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.gvisor.bundle import configuration, mount_source
from mas_sandbox.runtimes.jail.layout import Bind

ALWAYS_REFUSED = ("mount", "setns", "bpf", "ptrace", "open_by_handle_at", "keyctl")


def config(
    spec: SandboxSpec | None = None, binds: list[Bind] | None = None, *, returns_errors: bool = True
) -> Any:
    return json.loads(
        configuration(
            spec or SandboxSpec(), ["/usr/bin/python3"], binds or [], returns_errors=returns_errors
        )
    )


def refused(settings: Any) -> dict[str, list[Any]]:
    """System call -> the rules that refuse it."""
    rules: dict[str, list[Any]] = {}
    for rule in settings["linux"]["seccomp"]["syscalls"]:
        for name in rule["names"]:
            rules.setdefault(name, []).append(rule)
    return rules


def test_the_sandbox_has_no_rights() -> None:
    process = config()["process"]
    assert process["noNewPrivileges"] is True
    assert set(process["capabilities"]) >= {"bounding", "effective", "permitted", "ambient"}
    assert all(held == [] for held in process["capabilities"].values())
    assert process["user"] == {"uid": 1000, "gid": 1000}
    assert config()["root"]["readonly"] is True


def test_the_environment_is_the_specs_and_nothing_else() -> None:
    assert config()["process"]["env"] == []
    assert config(SandboxSpec(env=(("A", "1"),)))["process"]["env"] == ["A=1"]


def test_every_scratch_file_system_has_a_size() -> None:
    mounts = {each["destination"]: each for each in config(SandboxSpec(disk_mb=7))["mounts"]}
    for path in ("/tmp", "/workspace"):
        assert mounts[path]["type"] == "tmpfs"
        assert "size=7m" in mounts[path]["options"]
    assert "size=64m" in mounts["/dev/shm"]["options"]
    for path in ("/proc", "/sys"):
        assert "ro" in mounts[path]["options"]


def test_the_number_of_processes_counts_the_toolrunner_too() -> None:
    limits = {each["type"]: each for each in config(SandboxSpec(pids=5))["process"]["rlimits"]}
    assert limits["RLIMIT_NPROC"] == {"type": "RLIMIT_NPROC", "hard": 6, "soft": 6}
    names = [each["type"] for each in config()["process"]["rlimits"]]
    assert "RLIMIT_NPROC" not in names


def test_a_host_directory_takes_the_place_of_scratch_space() -> None:
    binds = [Bind(3, "/data", writable=False), Bind(4, "/workspace", writable=True)]
    mounts = config(binds=binds)["mounts"]
    found = {each["destination"]: each for each in mounts}
    assert len(found) == len(mounts)
    assert found["/data"]["source"] == mount_source(0)
    assert found["/workspace"]["source"] == mount_source(1)
    assert "ro" in found["/data"]["options"]
    assert "rw" in found["/workspace"]["options"]
    assert {"nosuid", "nodev"} <= set(found["/workspace"]["options"])


def test_namespaces_mounts_and_the_rest_of_the_jails_list_are_refused() -> None:
    rules = refused(config())
    for name in ALWAYS_REFUSED:
        assert [rule["args"] for rule in rules[name]] == [[]], name
    for name in ("clone", "unshare"):
        bits = {rule["args"][0]["value"] for rule in rules[name]}
        assert 0x10000000 in bits
        assert all(rule["action"] == "SCMP_ACT_ERRNO" for rule in rules[name])


def test_clone3_is_only_refused_where_libc_will_fall_back() -> None:
    (rule,) = refused(config(returns_errors=True))["clone3"]
    assert rule["errnoRet"] == errno.ENOSYS
    assert "clone3" not in refused(config(returns_errors=False))


def test_no_signal_reaches_the_toolrunner_however_its_id_is_written() -> None:
    for name in ("kill", "tgkill", "pidfd_open"):
        (rule,) = refused(config())[name]
        (argument,) = rule["args"]
        assert argument["op"] == "SCMP_CMP_MASKED_EQ"
        assert 0x1_0000_0001 & argument["value"] == argument["valueTwo"] == 1
