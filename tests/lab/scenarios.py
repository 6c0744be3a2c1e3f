"""What is tried in the lab, by root on a host with KVM and vsock; `test_kvm.py` judges it.

This is the lab's first process. Each scenario reports what it saw as one line of JSON on
the second serial port. Only the standard library and the project are here.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import pwd
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import census
from mas_sandbox.runtimes.base import ControlStatus, SandboxSpec
from mas_sandbox.runtimes.microvm import runtime as sandboxes
from mas_sandbox.runtimes.microvm.qemu import driver, machine
from mas_sandbox.runtimes.microvm.qemu.machine import QemuVm
from mas_sandbox.runtimes.microvm.runtime import MicrovmRuntime, MicrovmSandbox
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.runtimes.select import choose_runtime
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.messages import Call

Facts = dict[str, Any]

REPORT = "/dev/ttyS1"
KVM_GROUP = 104
USER = "nobody"
SPEC = SandboxSpec(mem_mb=128, pids=64, cpus=1.0)
TIMEOUT_MS = 120_000
IDENTITY = """
import json, os, socket, time, uuid
def read(path): return open(path).read().strip()
print(json.dumps({
    "urandom": os.urandom(16).hex(), "uuid": str(uuid.uuid4()), "hostname": socket.gethostname(),
    "boot_id": read("/proc/sys/kernel/random/boot_id"), "machine_id": read("/etc/machine-id"),
    "time": time.time(),
}))
"""
POWER_OFF = 0x4321FEDC  # reboot(2)


def give_time() -> None:
    """A machine in the lab is emulated twice over: no deadline meant for hardware holds, nor
    can limits of time be put to the proof."""
    sandboxes.CONNECT_TIMEOUT_S = sandboxes.WELCOME_TIMEOUT_S = 120.0
    driver.BOOT_TIMEOUT_S = driver.PROBE_TIMEOUT_S["kvm"] = 240.0
    machine.STEP_TIMEOUT_S = machine.SAVE_TIMEOUT_S = 120.0
    sandboxes.proven = take_its_word


async def take_its_word(
    name: str, facts: str, claimed: Mapping[Control, ControlStatus], *rest: object
) -> dict[Control, ControlStatus]:
    return dict(claimed)


class Lab:
    """`report`: takes one line of JSON."""

    def __init__(self, report: Callable[[str], object]) -> None:
        self._report = report

    async def tell(self, name: str, scenario: Awaitable[Facts]) -> None:
        """Run one scenario to its end and report it; the next one runs whatever happened."""
        started = time.monotonic()
        said: Facts = {"name": name}
        try:
            said["facts"] = await scenario
        except (Exception, asyncio.CancelledError):
            said["error"] = traceback.format_exc()
        said["seconds"] = round(time.monotonic() - started, 1)
        self._report(json.dumps(said) + "\n")


async def try_as_root(lab: Lab, user: asyncio.subprocess.Process) -> None:
    """`user`: who does the same at the same time; nothing of theirs is counted as left."""
    taken: list[MicrovmRuntime] = []
    await lab.tell("auto", let_auto_take(taken))
    if not taken:
        return
    (runtime,) = taken
    await lab.tell("first machine", see_one_machine(runtime))
    await user.wait()
    before = census.take()
    await lab.tell("two clones", see_two_clones(runtime))
    await lab.tell("paused", pause_one(runtime))
    await lab.tell("killed", kill_one(runtime))
    await lab.tell("nobody listens", call_a_port_of_nobody(runtime))
    await lab.tell("left behind", see_what_is_new(before))
    await runtime.close()


async def let_auto_take(taken: list[MicrovmRuntime]) -> Facts:
    runtime, probe = await choose_runtime("auto")
    if isinstance(runtime, MicrovmRuntime):
        taken.append(runtime)
    return {"name": runtime.name, "version": probe.version, "auto": probe.taken_by_auto}


async def see_one_machine(runtime: MicrovmRuntime) -> Facts:
    async with await runtime.start(SPEC) as sandbox:
        return {
            "enforced": sorted(sandbox.enforced),
            "monitor": _status(sandbox.vm.pid),
            "files": _open_files(sandbox.vm.pid),
            "calculator": (await _ask(sandbox, "calculator", expression="6 * 7")).value,
            "clocksource": await _shell(
                sandbox, "cat /sys/devices/system/clocksource/clocksource0/current_clocksource"
            ),
            "kernel": await _shell(sandbox, "uname -r"),
        }


async def see_two_clones(runtime: MicrovmRuntime) -> Facts:
    first, second = await asyncio.gather(runtime.start(SPEC), runtime.start(SPEC))
    async with first, second:
        clones = []
        for sandbox in (first, second):
            asked = time.time()
            said = json.loads((await _ask(sandbox, "python", code=IDENTITY)).stdout)
            said["clock is right"] = asked - 1 < said.pop("time") < time.time() + 1
            clones.append(said | {"cid": _cid(sandbox.vm.pid)})
        return {"clones": clones}


async def pause_one(runtime: MicrovmRuntime) -> Facts:
    async with await runtime.start(SPEC) as sandbox:
        await sandbox.vm.pause()
        call = asyncio.create_task(_ask(sandbox, "calculator", expression="1 + 1"))
        done, _ = await asyncio.wait({call}, timeout=3)
        await sandbox.vm.resume()
        return {"answered while paused": bool(done), "then": (await call).value}


async def kill_one(runtime: MicrovmRuntime) -> Facts:
    async with await runtime.start(SPEC) as sandbox:
        call = asyncio.create_task(_shell(sandbox, "sleep 60"))
        await asyncio.sleep(1)
        os.kill(sandbox.vm.pid, signal.SIGKILL)
        return {"error": await _error(call)}


async def call_a_port_of_nobody(runtime: MicrovmRuntime) -> Facts:
    async with await runtime.start(SPEC) as sandbox:
        assert isinstance(sandbox.vm, QemuVm)
        sandbox.vm.spec = replace(sandbox.vm.spec, port=4999)
        started = time.monotonic()
        error = await _error(sandbox.vm.connect(2))
        return {"error": error, "took": time.monotonic() - started}


async def see_what_is_new(before: census.Census) -> Facts:
    now = census.take()
    names = [field.name for field in fields(census.Census)]
    new = {each for name in names for each in getattr(now, name) - getattr(before, name)}
    return {"new": sorted(new)}


async def try_as_user(lab: Lab) -> None:
    """By someone who is in KVM's group, and to whom vsock is closed."""
    await lab.tell("user", see_a_user_s_machine())


async def see_a_user_s_machine() -> Facts:
    runtime, probe = await choose_runtime("auto")
    assert isinstance(runtime, MicrovmRuntime)
    async with await runtime.start(SandboxSpec()) as sandbox:
        facts = {
            "version": probe.version,
            "monitor": _status(sandbox.vm.pid),
            "calculator": (await _ask(sandbox, "calculator", expression="6 * 7")).value,
        }
    await runtime.close()
    return facts


async def _ask(sandbox: MicrovmSandbox, tool: str, **arguments: str) -> CallOutcome:
    outcome = await sandbox.run(Call(tool, arguments, timeout_ms=TIMEOUT_MS))
    assert outcome.code is None, outcome
    return outcome


async def _shell(sandbox: MicrovmSandbox, command: str) -> str:
    outcome = await _ask(sandbox, "bash", command=command)
    return (outcome.stdout + outcome.stderr).decode().strip()


async def _error(doomed: Awaitable[object]) -> str:
    try:
        return f"none: {await doomed!r}"
    except SandboxError as error:
        return str(error)


def _status(process: int) -> dict[str, str]:
    """What proc_pid_status(5) says of a monitor."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return {name: fields[name].strip() for name in ("Uid", "Gid", "Groups", "Seccomp", "CapEff")}


def _cid(process: int) -> str:
    """A machine's address on the lab's vsock."""
    command = Path(f"/proc/{process}/cmdline").read_text()
    return command.partition("guest-cid=")[2].partition(",")[0]


def _open_files(process: int) -> list[str]:
    place = Path(f"/proc/{process}/fd")
    return sorted({os.readlink(place / name) for name in os.listdir(place)})


async def as_root() -> None:
    home = Path("/home/user")
    home.mkdir(mode=0o700)
    account = pwd.getpwnam(USER)
    os.chown(home, account.pw_uid, account.pw_gid)
    with open(REPORT, "w", buffering=1) as report:
        user = await asyncio.create_subprocess_exec(
            *(sys.executable, "-S", "-m", "lab.scenarios", "user"),
            stdout=report,
            user=account.pw_uid,
            group=account.pw_gid,
            extra_groups=[KVM_GROUP],
            env=os.environ | {"HOME": str(home), "XDG_CACHE_HOME": "/var/cache"},
        )
        await try_as_root(Lab(report.write), user)


def main() -> None:
    give_time()
    if sys.argv[1:] == ["user"]:
        asyncio.run(try_as_user(Lab(sys.stdout.write)))
    else:
        asyncio.run(as_root())


def power_off_after(program: Callable[[], None]) -> None:
    """The lab ends with its first process."""
    try:
        program()
    finally:
        if os.getpid() == 1:
            traceback.print_exc()
            os.sync()
            ctypes.CDLL(None).reboot(POWER_OFF)


if __name__ == "__main__":
    power_off_after(main)
