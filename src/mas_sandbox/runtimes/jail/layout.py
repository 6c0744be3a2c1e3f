"""What a jail looks like from inside, as a plan that can be printed and tested.

The plan is bubblewrap's command line (bwrap(1)). Nothing in it depends on a check
made earlier about a path that a sandbox can change: the only host paths are `/usr`
and what belongs to it, and everything else comes in through descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mas_sandbox.wire.isolation import PROXY_PORT, WORKSPACE

UID = GID = 1000
"""The user inside. It is mapped to the jail's own uid outside."""
SHM_MB = 64
SCRATCH_MB = 1024
"""Size of each scratch file system where the policy names none."""
SCRATCH = ("/dev/shm", "/tmp", WORKSPACE)  # noqa: S108
RUNNER = "/run/mas/toolrunner.pyz"

ETC = {
    "/etc/passwd": "root:x:0:0:root:/:/bin/false\n"
    f"agent:x:{UID}:{GID}:agent:{WORKSPACE}:/bin/bash\n"
    "nobody:x:65534:65534:nobody:/:/bin/false\n",
    "/etc/group": f"root:x:0:\nagent:x:{GID}:\nnogroup:x:65534:\n",
    "/etc/hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "/etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "/etc/resolv.conf": "",
}
USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
FILES_OF_HOST = ("/etc/ld.so.cache",)
"""The index of its libraries, which is replaced whenever one is installed: every jail has
the one of its day."""
ETC_OF_USR = ("/etc/alternatives", *FILES_OF_HOST, "/etc/ssl/certs")
"""Where Debian keeps links into /usr, that index, and the certificates of the authorities that
TLS clients trust."""


@dataclass(frozen=True, slots=True)
class Bind:
    """A host directory: `source` is a path, or an open descriptor, of bubblewrap's."""

    source: str | int
    path: str
    writable: bool


@dataclass(slots=True)
class Plan:
    """bubblewrap's arguments and the descriptors they name."""

    arguments: list[str] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    def add(self, *words: str) -> None:
        self.arguments += words

    def add_bind(self, bind: Bind) -> None:
        option = "--bind" if bind.writable else "--ro-bind"
        if isinstance(bind.source, int):
            option += "-fd"
            self.descriptors.append(bind.source)
        self.add(option, str(bind.source), bind.path)

    def add_file(self, content: bytes, path: str, undo: ExitStack) -> None:
        """A read-only file with this content; no host path stands behind it."""
        self.add("--perms", "0444", "--file", str(self.memory(content, undo)), path)

    def memory(self, content: bytes, undo: ExitStack) -> int:
        """A descriptor with this content, read from its start."""
        descriptor = os.memfd_create("mas-sandbox")
        undo.callback(os.close, descriptor)
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        self.descriptors.append(descriptor)
        return descriptor

    def encoded(self) -> bytes:
        """The arguments as `bwrap --args` reads them."""
        return b"".join(os.fsencode(word) + b"\0" for word in self.arguments)


def plan_jail(
    *,
    seccomp: Sequence[bytes],
    scratch_mb: int,
    undo: ExitStack,
    runner: bytes | None,
    info: int | None = None,
    binds: Sequence[Bind] = (),
) -> Plan:
    """What bubblewrap, or the zygote, is told about one jail.

    `seccomp`: filters, each of which must allow; `undo` holds what must be closed once the
    jail has started; `runner`: the toolrunner's archive, None where what is common to all
    jails is there already; `info`: where bubblewrap tells of itself; `binds`: outer ones
    before those inside them.
    """
    plan = Plan()
    plan.add("--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net")
    plan.add("--unshare-uts", "--unshare-cgroup-try", "--disable-userns")
    plan.add("--die-with-parent", "--new-session", "--cap-drop", "ALL")
    plan.add("--uid", str(UID), "--gid", str(GID), "--hostname", "sandbox")
    if runner is not None:
        _add_common(plan, runner, undo)
    for path in FILES_OF_HOST:
        plan.add("--ro-bind-try", path, path)
    plan.add("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev")
    for path, size_mb in zip(SCRATCH, (SHM_MB, scratch_mb, scratch_mb), strict=True):
        plan.add("--perms", "0700", "--size", str(size_mb << 20), "--tmpfs", path)
    for bind in binds:
        plan.add_bind(bind)
    plan.add("--remount-ro", "/", "--chdir", WORKSPACE)
    if info is not None:
        plan.add("--info-fd", str(info))
        plan.descriptors.append(info)
    for program in seccomp:
        plan.add("--add-seccomp-fd", str(plan.memory(program, undo)))
    return plan


def plan_common(runner: bytes, undo: ExitStack) -> Plan:
    """What every jail's tree has alike, and where each puts its own."""
    plan = Plan()
    _add_common(plan, runner, undo)
    plan.add("--dev", "/dev")
    return plan


def _add_common(plan: Plan, runner: bytes, undo: ExitStack) -> None:
    plan.add("--ro-bind", "/usr", "/usr")
    for name in USR_LINKS:
        _add_usr_link(plan, name)
    for path in ETC_OF_USR:
        if path not in FILES_OF_HOST:
            plan.add("--ro-bind-try", path, path)
    for path, text in ETC.items():
        plan.add_file(text.encode(), path, undo)
    plan.add_file(runner, RUNNER, undo)
    for path in ("/proc", "/dev", *SCRATCH):
        if not path.startswith("/dev/"):
            plan.add("--dir", path)
    for path in FILES_OF_HOST:
        plan.add_file(b"", path, undo)


def toolrunner_command(python: str, channel: int) -> list[str]:
    """The program inside: `channel` is the descriptor of its byte stream."""
    return [python, "-I", "-S", RUNNER, "--fd", str(channel), *toolrunner_arguments()]


def toolrunner_arguments() -> list[str]:
    """What it is told beside its channel."""
    return ["--workspace", WORKSPACE, "--landlock", "--proxy", str(PROXY_PORT)]


def _add_usr_link(plan: Plan, name: str) -> None:
    """`/bin` and its like: a link on a merged-/usr host, a directory on an older one."""
    path = Path("/") / name
    if path.is_symlink():
        plan.add("--symlink", str(path.readlink()), str(path))
    elif path.is_dir():
        plan.add("--ro-bind", str(path), str(path))
