"""The control group of a machine's calls (cgroup v2, admin-guide/cgroup-v2.rst).

The toolrunner itself stays outside: no call can take its memory or its processes.
"""

from __future__ import annotations

import os

from . import mounts

_ROOT = "/sys/fs/cgroup"
_GROUP = f"{_ROOT}/calls"


class CallGroup:
    def __init__(self) -> None:
        """Raises OSError where there is no cgroup v2, or it lacks a controller."""
        _write(f"{_ROOT}/cgroup.subtree_control", "+memory +pids")
        _share_the_processor()
        if not os.path.isdir(_GROUP):
            os.mkdir(_GROUP)
        self._entrance = os.open(f"{_GROUP}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
        self._events = os.open(f"{_GROUP}/memory.events", os.O_RDONLY | os.O_CLOEXEC)
        mounts.set_flag(_ROOT, "favordynmods")

    @classmethod
    def make(cls) -> CallGroup | None:
        try:
            return cls()
        except OSError:
            return None

    def limit(self, mem_mb: int | None, pids: int | None) -> None:
        """None is not limited. Raises OSError."""
        _write(f"{_GROUP}/memory.max", "max" if mem_mb is None else str(mem_mb << 20))
        if os.path.exists(f"{_GROUP}/memory.swap.max"):
            _write(f"{_GROUP}/memory.swap.max", "0")
        _write(f"{_GROUP}/pids.max", "max" if pids is None else str(pids))

    def enter(self) -> None:
        """Move the calling process in, with all it will fork."""
        os.write(self._entrance, b"0")

    def oom_kills(self) -> int:
        for line in os.pread(self._events, 4096, 0).splitlines():
            name, _, count = line.partition(b" ")
            if name == b"oom_kill":
                return int(count)
        return 0


def _share_the_processor() -> None:
    """Between the toolrunner and all calls together, however many processes those have: it
    must answer its host."""
    try:
        _write(f"{_ROOT}/cgroup.subtree_control", "+cpu")
    except OSError:
        return  # a kernel without that controller: each process has its share


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
