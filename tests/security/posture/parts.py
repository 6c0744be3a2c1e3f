"""What a running sandbox is made of on the host: each process by the part that it plays."""

from __future__ import annotations

from pathlib import Path

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.runtimes.gvisor.posture import descendants
from mas_sandbox.runtimes.gvisor.runtime import GvisorSandbox
from mas_sandbox.runtimes.jail.runtime import JailSandbox
from mas_sandbox.runtimes.microvm.runtime import MicrovmSandbox

from .seen import status


def parts(sandbox: Sandbox) -> dict[str, list[int]]:
    """Part -> the host's ids of its processes."""
    match sandbox:
        case JailSandbox():
            first, *inside = [sandbox.init, *descendants(sandbox.init)]
            if _is_zygotes(sandbox):
                found = {"zygote": [_parent(first)], "toolrunner": [first]}
            else:
                found = {"outside": [_parent(first)], "first": [first]}
                found["toolrunner"] = [inside.pop(0)]
            for process in inside:
                # What runs the toolrunner's program beneath it is no call's yet.
                part = "spare" if _is_toolrunner(process) else "call"
                found.setdefault(part, []).append(process)
            return found
        case GvisorSandbox():
            first, *inside = [sandbox.init, *descendants(sandbox.init)]
            found = {"outside": [_parent(first)], "first": [first]}
            for process in inside:
                found.setdefault(_words(process).rpartition("/")[2] or "stub", []).append(process)
            return found
        case MicrovmSandbox():
            return {"monitor": [sandbox.vm.pid]}
        case _:
            raise AssertionError(f"no parts of a {type(sandbox).__name__} are known")


def description_of(sandbox: Sandbox, runtime: str) -> str:
    """The name of the description that its parts are to be like."""
    forked = isinstance(sandbox, JailSandbox) and _is_zygotes(sandbox)
    return f"{runtime}-zygote" if forked else runtime


def _is_zygotes(sandbox: JailSandbox) -> bool:
    return "--zygote" in Path(f"/proc/{_parent(sandbox.init)}/cmdline").read_text()


def _parent(process: int) -> int:
    return int(status(process)["PPid"])


def _is_toolrunner(process: int) -> bool:
    return "toolrunner.pyz" in Path(f"/proc/{process}/cmdline").read_text()


def _words(process: int) -> str:
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")[0].decode()
