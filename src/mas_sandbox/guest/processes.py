"""The processes of calls: how everything a call started is ended, wherever it hid.

Each call's main process is a *subreaper* (prctl(2)), so what it orphans stays its own;
when the main process is gone, what is left becomes a child of the toolrunner, which is
a subreaper too. Only direct children are ever signalled: their ids cannot be reused
before the toolrunner itself reaps them, and killing them hands over their children,
until none is left. setsid, double forks and ignored signals change nothing.

Elsewhere than on Linux there is no subreaper: there the process group is killed, and a
process that left the group escapes.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from resource import struct_rusage

_PASSES = 64


class Ended:
    """How a main process ended. `exit_code`: 128 + N where signal `killed_by` = N ended it."""

    __slots__ = ("cpu_us", "exit_code", "killed_by", "max_rss_kb")

    def __init__(self, status: int, cpu_us: int, max_rss_kb: int) -> None:
        self.killed_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        self.exit_code = 128 + self.killed_by if self.killed_by else os.WEXITSTATUS(status)
        self.cpu_us = cpu_us
        self.max_rss_kb = max_rss_kb


def kill(main: int) -> None:
    """SIGKILL to a main process that is not reaped yet, and to its process group."""
    for send in (os.kill, os.killpg):
        try:
            send(main, signal.SIGKILL)
        except OSError:
            continue  # it has no group of its own yet, or is a zombie already


def reap(main: int) -> Ended | None:
    """How `main` ended, None while it runs. Its process group is killed first: the id
    of the group cannot be reused before the reaping."""
    if sys.platform == "linux":
        if os.waitid(os.P_PID, main, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        kill(main)
    pid, status, usage = os.wait4(main, os.WNOHANG)
    if pid == 0:
        return None
    if sys.platform != "linux":
        kill(main)
    return Ended(status, *used(usage))


def used(usage: struct_rusage) -> tuple[int, int]:
    """Processor time in microseconds, and the largest size in memory in kilobytes."""
    cpu_us = int((usage.ru_utime + usage.ru_stime) * 1_000_000)
    unit = 1024 if sys.platform == "darwin" else 1  # bytes there, kilobytes elsewhere
    return cpu_us, usage.ru_maxrss // unit


def end_orphans(mains: Container[int]) -> bool:
    """Kill and reap every child that is not in `mains`; True when none was left.

    Never waits: what is still dying is found by the next call, at the next SIGCHLD.
    """
    for _ in range(_PASSES):
        orphans = [pid for pid in children() if pid not in mains]
        if not orphans:
            return True
        dying = [pid for pid in orphans if not end(pid)]
        if dying:
            return False
    return False


def children() -> list[int]:
    """The process ids of this process's children, zombies too; only Linux can tell.

    Complete, although proc_pid_task(5) warns that a list may miss an entry when another
    one goes meanwhile: only this thread makes them go, by reaping.
    """
    if sys.platform != "linux":
        return []
    try:
        listing = _read("/proc/thread-self/children")
    except FileNotFoundError:
        return _scan(os.getpid())
    return [int(pid) for pid in listing.split()]


def end(pid: int) -> bool:
    """Kill a child, and reap it if that can be done now; whether it is gone."""
    try:
        os.kill(pid, signal.SIGKILL)
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ProcessLookupError:
        return True
    except OSError:
        return False


def _scan(parent: int) -> list[int]:
    """For kernels without CONFIG_PROC_CHILDREN: the ppid of every process (proc_pid_stat(5))."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            fields = _read(f"/proc/{name}/stat")
        except OSError:
            continue
        # The program's name stands in parentheses and may hold any byte.
        if int(fields[fields.rindex(b")") + 2 :].split()[1]) == parent:
            found.append(int(name))
    return found


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)
