"""A toolrunner that has a kernel of its own: what it makes fresh, and what it limits.

Machines cloned from one template are the same to the last bit until their WELCOME, so
all that must differ is changed before READY: the kernel's random generator, the clock,
the host name and the machine's id. /proc/sys/kernel/random/boot_id is drawn when it is
first read, which nothing here does.

What clones go on sharing is the toolrunner's own memory layout and its seed of `hash`:
programs are executed and draw their own, but the order of a set in an operator's
function tool says nothing that another clone could not know.

Calls are not run as root here: uid and gid 1000, without capabilities.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
import time

from . import libc, tools
from .group import CallGroup
from .refusal import Unenforceable
from .scratch import Scratch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mas_sandbox.wire.messages import Welcome

_RNDADDENTROPY, _RNDRESEEDCRNG = 0x40085203, 0x5207  # random(4)
_MACHINE_ID = "/etc/machine-id"


class Machine:
    """Made once, before HELLO, with all that a clone should not have to do again.

    `controls`: what it can limit here, found by trying.
    """

    USER = 1000
    """Who calls run as."""

    def __init__(self, workspace: str, temporary: str) -> None:
        """Raises OSError where this is no root of a machine."""
        os.chown(workspace, self.USER, self.USER)
        _write("/proc/self/oom_score_adj", b"-1000")
        _drop_bounding_set()
        self._group = CallGroup.make()
        self._scratch = Scratch.find([workspace, temporary])
        self.controls = ["memory", "pids"] if self._group is not None else []
        if self._scratch is not None:
            self.controls += ["disk", "disk_files"]
        _import_all()
        self._rehearse()

    def welcome(self, message: Welcome, entropy: bytes) -> None:
        """Raises Unenforceable."""
        try:
            _reseed(entropy)
            time.clock_settime_ns(time.CLOCK_REALTIME, message.time_ns)
            if message.hostname:
                _socket.sethostname(message.hostname)
            _draw_machine_id()
            self._limit(message.limits)
        except OSError as error:
            raise Unenforceable(f"the welcome could not be put in force: {error}") from error

    def _rehearse(self) -> None:
        """Set once what WELCOME sets, to what it is: the template then has read from its disk
        and allocated all that this takes, and each clone need not."""
        _reseed(os.urandom(32))
        time.clock_settime_ns(time.CLOCK_REALTIME, time.time_ns())
        _socket.sethostname(_socket.gethostname())
        self._limit({})
        try:
            _write(_MACHINE_ID, b"")
        except OSError:
            return  # a root that cannot be written: WELCOME leaves it alone too

    def become_guest(self) -> None:
        """Put this process, a call's, under the limits and make it nobody in particular."""
        if self._group is not None:
            self._group.enter()
        os.setgroups([])
        os.setresgid(self.USER, self.USER, self.USER)
        os.setresuid(self.USER, self.USER, self.USER)  # and with root goes every capability

    def give(self, descriptor: int) -> None:
        """Make what it is of, a terminal, the calls' own. Raises OSError."""
        os.fchown(descriptor, self.USER, -1)

    def oom_kills(self) -> int:
        """How many processes of calls have been ended for want of memory so far."""
        return 0 if self._group is None else self._group.oom_kills()

    def _limit(self, limits: dict[str, int]) -> None:
        mem_mb, pids = limits.get("mem_mb"), limits.get("pids")
        disk_mb, disk_files = limits.get("disk_mb"), limits.get("disk_files")
        if self._group is not None:
            self._group.limit(mem_mb, pids)
        elif mem_mb or pids:
            raise Unenforceable("mem_mb and pids need cgroup v2 at /sys/fs/cgroup")
        if self._scratch is not None:
            self._scratch.limit(disk_mb, disk_files)
        elif disk_mb or disk_files:
            raise Unenforceable(
                "disk_mb and disk_files need /workspace and /tmp on a tmpfs mounted in sight"
            )


def _import_all() -> None:
    """What any call may need: here the template pays for it once, and no clone."""
    import inspect  # noqa: F401
    import linecache  # noqa: F401
    import random  # noqa: F401

    from . import extensions, started, terminal  # noqa: F401

    for name in (*tools.NAMES, *tools.INSIDE):
        tools.load(name)


def _reseed(entropy: bytes) -> None:
    """Mix in and credit the entropy, and draw from it at once: the generator, cloned
    with its template, would otherwise go on with the same numbers for a minute."""
    pool = os.open("/dev/urandom", os.O_WRONLY | os.O_CLOEXEC)
    try:
        # struct rand_pool_info: bits, bytes, data
        fcntl.ioctl(
            pool, _RNDADDENTROPY, struct.pack("=ii", len(entropy) * 8, len(entropy)) + entropy
        )
        fcntl.ioctl(pool, _RNDRESEEDCRNG)
    finally:
        os.close(pool)


def _draw_machine_id() -> None:
    """machine-id(5): 32 hexadecimal digits. A root that cannot be written keeps its own."""
    try:
        _write(_MACHINE_ID, os.urandom(16).hex().encode() + b"\n", os.O_CREAT | os.O_TRUNC)
    except OSError:
        return


def _drop_bounding_set() -> None:
    capability = 0
    try:
        while True:
            libc.prctl(libc.PR_CAPBSET_DROP, capability)
            capability += 1
    except OSError:
        return  # past the last that this kernel knows


def _write(path: str, data: bytes, flags: int = 0) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | flags, 0o444)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)
