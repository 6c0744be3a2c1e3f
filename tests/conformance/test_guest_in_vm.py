"""The toolrunner in a machine of its own: what it makes fresh, whom it runs as, its limits."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.booted import BOOT_S, BootedMachine
from doubles.host import Link, Stream, ToolrunnerEnded
from mas_sandbox.runtimes.microvm.image.store import find_image

LIMITS = {"mem_mb": 100, "pids": 24, "disk_mb": 20}
YEAR_2030 = 1_893_456_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedMachine]:
    started = BootedMachine(find_image(), tmp_path_factory.mktemp("machine"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def link(machine: BootedMachine) -> Link:
    """The first host, which was there before the toolrunner said HELLO."""
    attached = machine.attach()
    attached.until(lambda: attached.hello is not None, BOOT_S)
    attached.welcome(
        {}, entropy=b"\x55" * 32, time_ns=YEAR_2030 * 10**9, hostname="vm-7", limits=LIMITS
    )
    return attached


def shown(link: Link, command: str) -> str:
    call = link.bash(command)
    assert call.result is not None
    assert (call.result.exit_code, call.stderr) == (0, b""), call.stderr
    return call.stdout.decode().strip()


def outcome(call: Stream) -> tuple[int, str]:
    assert call.result is not None
    return call.result.exit_code, call.result.code


def test_hello_names_the_controls_that_hold_here(link: Link) -> None:
    assert link.hello is not None
    assert sorted(link.hello.controls) == ["disk", "disk_files", "memory", "paths", "pids"]


def test_clock_and_names_are_those_of_the_welcome(link: Link) -> None:
    began = time.monotonic()
    link.welcome({}, time_ns=YEAR_2030 * 10**9, hostname="vm-7", limits=LIMITS)
    since = int(shown(link, "date +%s")) - YEAR_2030
    assert 0 <= since <= time.monotonic() - began + 1
    assert shown(link, "hostname") == "vm-7"
    first = shown(link, "cat /etc/machine-id")
    assert re.fullmatch("[0-9a-f]{32}", first)
    link.welcome({}, hostname="vm-8", limits=LIMITS)
    began_at = time.time()
    assert began_at - 1 <= int(shown(link, "date +%s")) <= time.time() + 1
    assert shown(link, "hostname") == "vm-8"
    assert shown(link, "cat /etc/machine-id") != first


def test_calls_are_nobody_in_particular(link: Link) -> None:
    assert shown(link, "id -u; id -g; id -G; pwd; echo $HOME").split() == [
        *("1000", "1000", "1000", "/workspace", "/workspace"),
    ]
    status = shown(link, "grep -E '^(Cap|NoNewPrivs)' /proc/self/status")
    assert {line.split()[1] for line in status.splitlines()} == {"0" * 16, "1"}
    assert outcome(link.bash("kill -9 1 || kill -9 $PPID"))[0] != 0
    assert outcome(link.bash("touch /etc/x"))[0] != 0
    assert outcome(link.bash("ls /opt/mas/upper"))[0] != 0
    assert outcome(link.bash("cat < /dev/virtio-ports/mas.channel"))[0] != 0
    written = link.call("write_file", {"path": "kept.txt", "content": "mine"})
    assert outcome(written) == (0, "")
    assert shown(link, "stat -c %u:%g kept.txt") == "1000:1000"


def test_memory_is_limited_and_the_call_is_told(link: Link) -> None:
    assert outcome(link.call("python", {"code": "bytearray(60_000_000)"})) == (0, "")
    code = "bytearray(150_000_000)"
    assert outcome(link.call("python", {"code": code})) == (137, "out_of_memory")
    # One process of many, and the call went on: its result is its own.
    survivor = link.bash(f"python3 -c '{code}'; echo went on")
    assert (outcome(survivor), survivor.stdout) == ((0, ""), b"went on\n")
    assert link.call("calculator", {"expression": "6*7"}).value == 42


def test_processes_are_limited(link: Link) -> None:
    code = """
import os, time
count = 0
try:
    while count < 100:
        if os.fork() == 0:
            time.sleep(30)
            os._exit(0)
        count += 1
except BlockingIOError:
    print(count)
"""
    bomb = link.call("python", {"code": code})
    assert 0 < int(bomb.stdout) < LIMITS["pids"]
    assert shown(link, "echo again") == "again"


def test_scratch_space_is_limited(link: Link) -> None:
    for directory in ("/workspace", "/tmp", "/dev/shm"):
        full = link.bash(f"head -c 30000000 /dev/zero > {directory}/full")
        assert b"No space left" in full.stderr, directory
        size = int(shown(link, f"stat -c %s {directory}/full; rm {directory}/full"))
        assert size <= LIMITS["disk_mb"] << 20
    assert outcome(link.bash("head -c 15000000 /dev/zero > fits; rm fits")) == (0, "")


def test_a_host_that_hangs_up_can_come_back(machine: BootedMachine, link: Link) -> None:
    slow = link.start_bash("sleep 1; echo waited")
    link.take_for(0.3)
    link.socket.shutdown(socket.SHUT_RDWR)
    link.socket.close()
    deadline = time.monotonic() + 20
    while machine.cpu_wanted_s(over_s=1) >= 0.2:  # until the call is over, and nothing runs
        assert time.monotonic() < deadline, "the toolrunner is spinning"
    back = machine.attach()
    back.streams[slow.number] = slow
    back.finish(slow)
    assert slow.stdout == b"waited\n"
    back.welcome({}, limits=LIMITS)
    assert back.call("calculator", {"expression": "6*7"}).value == 42
    back.socket.close()


def test_a_limit_that_cannot_hold_ends_the_machine(machine: BootedMachine) -> None:
    attached = machine.attach()
    attached.welcome({})
    assert outcome(attached.bash("head -c 5000000 /dev/zero > /workspace/big")) == (0, "")
    with pytest.raises((ToolrunnerEnded, ConnectionError)):
        attached.welcome({}, limits={"disk_mb": 1})
    machine.process.wait(20)
    assert "mas-toolrunner: the welcome could not be put in force" in machine.console()


@pytest.mark.long
def test_clones_of_one_machine_share_no_random_output(tmp_path: Path) -> None:
    image, saved = find_image(), tmp_path / "saved"
    template = BootedMachine(image, tmp_path / "template")
    try:
        first = template.attach()
        first.until(lambda: first.hello is not None, BOOT_S)
        template.save(saved)
    finally:
        template.stop()
    drawn = [numbers_of_a_clone(BootedMachine(image, tmp_path / name, saved)) for name in "ab"]
    for one, other in zip(*drawn, strict=True):
        assert one != other


def numbers_of_a_clone(clone: BootedMachine) -> list[str]:
    """As a clone draws them first thing, the same steps in each."""
    try:
        link = clone.attach()
        link.welcome({}, entropy=os.urandom(32))
        code = """
import os, random, uuid
print(os.urandom(16).hex(), uuid.uuid4(), random.random())
print(open("/etc/machine-id").read(), open("/proc/sys/kernel/random/boot_id").read())
"""
        return link.call("python", {"code": code}).stdout.decode().split()
    finally:
        clone.stop()
