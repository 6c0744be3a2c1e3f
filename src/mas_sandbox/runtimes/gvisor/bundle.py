"""The OCI bundle of one sandbox: what runsc is told about it, as data.

Source: the OCI runtime specification, config.md and config-linux.md, as far as gVisor
reads it. The bundle lies in a file system that only this sandbox's runsc can see
(`layout.py`), so every path in it is of that file system.
"""

from __future__ import annotations

import errno
import json
import platform
from collections.abc import Sequence
from typing import Any

from mas_sandbox.wire.isolation import WORKSPACE

from ..base import SandboxSpec
from ..jail.layout import SCRATCH, SCRATCH_MB, SHM_MB, UID, Bind
from ..jail.seccomp_rules import RULES, Rule, When

BUNDLE = "/bundle"
ROOT = f"{BUNDLE}/rootfs"
OWN_PROCESSES = 1
"""The toolrunner, which counts among the sandbox's processes."""
_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h)."""
_TOOLRUNNER = 1
_SIGNAL_CALLS = ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open")
"""Their first argument is the process, or its one thread."""
_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")


def configuration(
    spec: SandboxSpec, command: list[str], binds: Sequence[Bind], *, returns_errors: bool
) -> bytes:
    """The bundle's config.json.

    `binds`: as `plan_runsc` has them; `returns_errors`: whether this runsc's system call
    filter can answer with an error of the rule's own, and not EPERM alone.
    """
    return json.dumps(
        {
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs", "readonly": True},
            "hostname": "sandbox",
            "process": {
                "user": {"uid": UID, "gid": UID},
                "args": command,
                "env": [f"{name}={value}" for name, value in spec.env],
                "cwd": WORKSPACE,
                "noNewPrivileges": True,
                "capabilities": {name: [] for name in _CAPABILITY_SETS},
                "rlimits": _rlimits(spec),
            },
            "mounts": _mounts(spec, binds),
            "linux": {
                "namespaces": [
                    {"type": name} for name in ("pid", "ipc", "uts", "mount", "network")
                ],
                "seccomp": _filter(returns_errors),
            },
        }
    ).encode()


def mount_source(position: int) -> str:
    """Where the bundle has the host directory of the bind at this position."""
    return f"{BUNDLE}/mounts/{position}"


def _rlimits(spec: SandboxSpec) -> list[dict[str, Any]]:
    limits = {"RLIMIT_CORE": 0}
    if spec.pids is not None:
        limits["RLIMIT_NPROC"] = spec.pids + OWN_PROCESSES
    return [{"type": name, "hard": value, "soft": value} for name, value in limits.items()]


def _mounts(spec: SandboxSpec, binds: Sequence[Bind]) -> list[dict[str, Any]]:
    scratch_mb = SCRATCH_MB if spec.disk_mb is None else spec.disk_mb
    mounts = [
        _mount("/proc", "proc", ["ro"]),
        _mount("/sys", "sysfs", ["ro"]),
        _mount("/dev", "dev", []),  # read-only, its devices could not be written either
    ]
    bound = {bind.path for bind in binds}
    for path, size_mb in zip(SCRATCH, (SHM_MB, scratch_mb, scratch_mb), strict=True):
        if path not in bound:
            options = ["mode=0700", f"uid={UID}", f"gid={UID}", f"size={size_mb}m"]
            mounts.append(_mount(path, "tmpfs", options))
    for position, bind in enumerate(binds):
        mode = "rw" if bind.writable else "ro"
        mounts.append(_mount(bind.path, "bind", [mode, "rbind"], mount_source(position)))
    return mounts


def _mount(path: str, kind: str, options: list[str], source: str = "") -> dict[str, Any]:
    return {
        "destination": path,
        "type": kind,
        "source": source or kind,
        "options": ["nosuid", "nodev", *options],
    }


def _filter(returns_errors: bool) -> dict[str, Any]:
    """What the jail refuses always, and new namespaces: a second wall inside gVisor's own,
    before the parts of it that had faults. The jail's other rules are about kernels that
    gVisor is not. And no signal for the toolrunner, who is the first process and whom
    Linux, but not every gVisor, would protect as such (pid_namespaces(7))."""
    machine = platform.machine()
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": [_ARCHITECTURES[machine]] if machine in _ARCHITECTURES else [],
        "syscalls": [
            _refusal(_SIGNAL_CALLS, errno.EPERM, [_is_equal(0xFFFFFFFF, _TOOLRUNNER)]),
            *(each for rule in RULES for each in _refusals(rule, returns_errors=returns_errors)),
        ],
    }


def _refusals(rule: Rule, *, returns_errors: bool) -> list[dict[str, Any]]:
    if "clone3" in rule.names and not returns_errors:
        return []  # refused with EPERM, libc would not fall back to clone
    match rule.when:
        case When.ALWAYS:
            return [_refusal(rule.names, rule.error, [])]
        case When.NEW_NAMESPACE:
            return [_refusal(rule.names, rule.error, [_is_equal(bit, bit)]) for bit in _NAMESPACES]
        case _:
            return []


def _refusal(names: Sequence[str], error: int, arguments: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "names": list(names),
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": error,
        "args": arguments,
    }


def _is_equal(mask: int, value: int) -> dict[str, Any]:
    """Of the first argument, the bits in `mask`: the kernel drops those above 32."""
    return {"index": 0, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
