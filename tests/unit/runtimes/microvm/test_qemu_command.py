"""QEMU's command line, without QEMU."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.qemu.command import Vsock, Wiring, boot_args, command_line
from mas_sandbox.runtimes.microvm.vm import DiskLimit, Drive, Tap, VmSpec

SPEC = VmSpec(Path("/image/vmlinuz"), Path("/image/initrd.img"), Path("/image/rootfs.ext4"))
COLD = Wiring(
    monitor=10, console=11, memory=12, shared=True, channel=13, disks=(14,), kernel=15, initrd=16
)
CLONE = replace(COLD, shared=False, kernel=None, initrd=None)


def made(spec: VmSpec = SPEC, wiring: Wiring = COLD, acceleration: str = "tcg") -> list[str]:
    return command_line("qemu", acceleration, spec, wiring)


def values(arguments: list[str], flag: str) -> list[str]:
    return [value for name, value in itertools.pairwise(arguments) if name == flag]


def objects(arguments: list[str], flag: str) -> list[dict[str, object]]:
    return [json.loads(value) for value in values(arguments, flag) if value.startswith("{")]


def test_no_device_is_there_that_was_not_asked_for() -> None:
    arguments = made()
    assert {"-nodefaults", "-no-user-config"} <= set(arguments)
    devices = " ".join(values(arguments, "-device"))
    named = re.findall(r'(?:^| |"driver":")(virt[a-z-]+|vhost[a-z-]+)', devices)
    assert sorted(named) == [
        "virtio-blk-pci",
        "virtio-rng-pci",
        "virtio-serial-pci",
        "virtserialport",
    ]
    assert not {"-netdev", "-nic", "-net"} & set(arguments)


def test_the_monitor_is_confined_by_its_own_filter() -> None:
    (confined,) = values(made(), "-sandbox")
    rules = dict(rule.split("=") for rule in confined.removeprefix("on,").split(","))
    assert rules == {
        "obsolete": "deny",
        "elevateprivileges": "deny",
        "spawn": "deny",
        "resourcecontrol": "deny",
    }


@pytest.mark.parametrize("wiring", [COLD, CLONE])
def test_no_file_is_named_by_a_path_of_the_host(wiring: Wiring) -> None:
    arguments = made(wiring=wiring)
    assert not [each for each in arguments if "/image/" in each]
    assert wiring.descriptors == tuple(
        each for each in (10, 11, 12, 13, 14, wiring.kernel, wiring.initrd) if each is not None
    )


@pytest.mark.parametrize(
    ("acceleration", "cpu"), [("tcg", "max,erms=off,la57=off"), ("kvm", "host"), ("hvf", "host")]
)
def test_the_processor_is_the_best_that_the_acceleration_has(acceleration: str, cpu: str) -> None:
    arguments = made(acceleration=acceleration)
    assert [each.split(",")[0] for each in values(arguments, "-accel")] == [acceleration]
    assert values(arguments, "-cpu") == [cpu]


def test_a_clone_has_memory_of_its_own_and_waits_for_its_state() -> None:
    cold, clone = made(), made(wiring=CLONE)
    assert "share=on" in values(cold, "-object")[0]
    assert "share=off" in values(clone, "-object")[0]
    assert values(clone, "-incoming") == ["defer"]
    assert "-S" in clone
    assert not {"-kernel", "-initrd", "-append"} & set(clone)
    assert not {"-S", "-incoming"} & set(cold)


def test_a_clone_is_the_same_machine_as_its_template() -> None:
    """Else its state would not fit: all but memory sharing and how it starts is equal."""
    cold, clone = made(), made(wiring=CLONE)
    for flag in ("-machine", "-cpu", "-smp", "-m", "-device", "-blockdev", "-add-fd", "-serial"):
        assert values(cold, flag) == values(clone, flag)


def test_the_root_disk_cannot_be_written_to() -> None:
    (file,) = objects(made(), "-blockdev")
    assert file["read-only"] is True
    assert file["filename"] == "/dev/fdset/0"


def test_drives_follow_in_order_each_with_its_name_and_mode() -> None:
    drives = (Drive("data", Path("/d")), Drive("work", Path("/w"), read_only=False))
    arguments = made(replace(SPEC, drives=drives), replace(COLD, disks=(14, 20, 21)))
    assert values(arguments, "-add-fd") == ["fd=14,set=0", "fd=20,set=1", "fd=21,set=2"]
    assert [each["read-only"] for each in objects(arguments, "-blockdev")] == [True, True, False]
    assert [each.get("serial") for each in objects(arguments, "-device")] == [None, "data", "work"]


def test_a_disk_limit_is_put_around_every_disk() -> None:
    spec = replace(SPEC, drives=(Drive("data", Path("/d")),))
    arguments = made(spec, replace(COLD, disks=(14, 20), disk_limit=DiskLimit(1 << 20, None)))
    limits = {each["id"]: each["limits"] for each in objects(arguments, "-object")}
    assert limits == {f"limit{index}": {"bps-total": 1 << 20} for index in (0, 1)}
    nodes = {each["node-name"]: each for each in objects(arguments, "-blockdev")}
    for index, device in enumerate(objects(arguments, "-device")):
        throttle = nodes[device["drive"]]
        assert (throttle["driver"], throttle["throttle-group"]) == ("throttle", f"limit{index}")
        assert throttle["file"] == f"file{index}"


def test_the_guest_is_told_its_channel_and_its_scratch_space() -> None:
    words = boot_args("tcg", replace(SPEC, overlay_mb=64), COLD).split()
    assert {"mas.channel=serial", "mas.overlay_mb=64", "panic=-1"} <= set(words)
    by_vsock = replace(COLD, channel=Vsock(9, 77))
    assert "mas.channel=vsock:5001" in boot_args("kvm", replace(SPEC, port=5001), by_vsock)


def test_an_emulated_guest_is_told_how_fast_its_counter_runs() -> None:
    known = replace(COLD, tsc_khz=2_300_017)
    assert "tsc_early_khz=2300017" in boot_args("tcg", SPEC, known).split()
    assert "tsc_early_khz" not in boot_args("tcg", SPEC, COLD)


def test_the_operators_words_come_last() -> None:
    words = boot_args("tcg", replace(SPEC, boot_args="mas.overlay_mb=7 debug"), COLD).split()
    assert words[-2:] == ["mas.overlay_mb=7", "debug"]


def test_a_vsock_is_given_open_and_replaces_the_port() -> None:
    arguments = made(wiring=replace(COLD, channel=Vsock(9, 77)))
    assert "vhost-vsock-pci,guest-cid=77,vhostfd=9" in values(arguments, "-device")
    assert not [each for each in arguments if "virtio-serial" in each]
    assert 9 in replace(COLD, channel=Vsock(9, 77)).descriptors


def test_a_tap_device_is_joined_only_where_it_was_asked_for() -> None:
    arguments = made(wiring=replace(COLD, tap=Tap("tap7", "52:54:00:00:00:07")))
    assert values(arguments, "-netdev") == ["tap,id=network,ifname=tap7,script=no,downscript=no"]
    assert objects(arguments, "-device")[-1]["mac"] == "52:54:00:00:00:07"


def test_a_tap_device_that_is_open_is_inherited() -> None:
    wiring = replace(COLD, tap=Tap("tap7", "52:54:00:00:00:07", 33))
    assert values(made(wiring=wiring), "-netdev") == ["tap,id=network,fd=33"]
    assert 33 in wiring.descriptors
