"""Programs of this machine, run to their end: the floors that sandboxes stand on."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from mas_sandbox.runtimes.jail.layout import USR_LINKS
from mas_sandbox.wire.isolation import WORKSPACE

PYTHON = "/usr/bin/python3"


def output(argv: Sequence[str]) -> bytes:
    """What it wrote. Raises CalledProcessError where it failed."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={}, check=True
    ).stdout


def bubblewrap(argv: Sequence[str]) -> list[str]:
    """Bare bubblewrap with the namespaces and the mounts of a jail: no control group, no
    system call filter, no user of its own, and no toolrunner."""
    places = [
        word
        for name in USR_LINKS
        if (link := Path("/") / name).is_symlink()
        for word in ("--symlink", str(link.readlink()), str(link))
    ]
    return [
        *("/usr/bin/bwrap", "--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net"),
        *("--unshare-uts", "--unshare-cgroup-try", "--disable-userns", "--die-with-parent"),
        *("--new-session", "--cap-drop", "ALL", "--uid", "1000", "--gid", "1000"),
        *("--hostname", "sandbox", "--ro-bind", "/usr", "/usr", *places),
        *("--ro-bind-try", "/etc/alternatives", "/etc/alternatives"),
        *("--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"),
        *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
        *("--tmpfs", "/dev/shm", "--tmpfs", "/tmp", "--tmpfs", WORKSPACE),  # noqa: S108
        *("--remount-ro", "/", "--chdir", WORKSPACE, "--", *argv),
    ]
