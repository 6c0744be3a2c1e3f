"""What a probe's sandbox is made to try before the self-test of every runtime: what holds
for this runsc, and what there is of gVisor's that a call could get around a limit with."""

from __future__ import annotations

import errno
import json
import platform
from dataclasses import dataclass
from typing import Any

from mas_sandbox.wire.messages import Call

from ..base import Sandbox
from ..jail.layout import SCRATCH
from ..jail.seccomp_tables import MACHINES

_CODE = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)

def error_of(name, *arguments):
    ctypes.set_errno(0)
    words = [word if isinstance(word, bytes) else ctypes.c_long(word) for word in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *words)
    if name == "clone3" and result == 0:
        os._exit(0)  # the child that should not have been
    return 0 if result >= 0 else ctypes.get_errno()

def writable():
    for place, directories, _ in os.walk("/"):
        if place in ("/usr", "/proc", "/sys"):
            directories.clear()
        if os.access(place, os.W_OK):
            directories.clear()
            yield place

new_user = 0x10000000
print(json.dumps({
    "clone3": error_of("clone3", new_user.to_bytes(8, "little").ljust(88, b"\\0"), 88),
    "nfsservctl": error_of("nfsservctl"),
    "writable": sorted(writable()),
    "mount": error_of("mount", b"none", b"/missing", b"tmpfs", 0, 0),
    "unshare": error_of("unshare", new_user),
    "statx": libc.statx(-100, b"/", 0x800, 0x7FF, ctypes.create_string_buffer(256)),
}))
"""
_CALLS = ("unshare", "clone3", "mount", "nfsservctl")


@dataclass(frozen=True, slots=True)
class Findings:
    """`returns_errors`, `mends_statx`: as `programs.Tools` has them; `problem`: what a call
    could do that nothing here may, empty when there is no such thing."""

    problem: str
    returns_errors: bool = False
    mends_statx: bool = False


async def attempt(sandbox: Sandbox) -> Findings:
    """Raises SandboxError when the sandbox does not live to tell."""
    table = MACHINES.get(platform.machine())
    if table is None:
        return Findings(f"there is no table of system calls for {platform.machine()}")
    numbers = {name: table.numbers[name] for name in _CALLS}
    code = f"numbers = {numbers!r}\n{_CODE}"
    outcome = await sandbox.run(Call("python", {"code": code}, timeout_ms=20_000))
    if outcome.exit_code:
        said = outcome.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        return Findings(f"its first call failed: {said or outcome.message}")
    return judge(json.loads(outcome.stdout))


def judge(saw: dict[str, Any]) -> Findings:
    """What follows from what the call saw: the error of each system call, 0 for none, and
    the directories that it may write to."""
    problem = ""
    if saw["mount"] != errno.EPERM or not (saw["unshare"] and saw["clone3"]):
        problem = "a call can make namespaces, and in them file systems without a size"
    elif saw["writable"] != list(SCRATCH):
        problem = f"a call can write outside its scratch space: {saw['writable']}"
    return Findings(
        problem,
        returns_errors=saw["nfsservctl"] == errno.ENOSYS,
        mends_statx=saw["statx"] < 0 and platform.machine() == "x86_64",
    )
