"""What a fresh fork goes through to be process 1 of a jail, in order.

It begins as a clone in namespaces of its own, which the jail's user owns, and with the
zygote's memory, which holds no secret. Each step is one of bubblewrap's; none may be left
out, and whatever fails ends it. Sources: namespaces(7), user_namespaces(7), capabilities(7),
prctl(2), netdevice(7).
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import signal
import struct

from .. import libc
from ..child import close_all_but
from . import system, tree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_INTERFACE = struct.Struct("=16sH22x")  # struct ifreq
_FINAL_UMASK = 0o022


def become(request: Request, user: int, group: int, alive: int) -> None:
    """Return as a jail's first process, with no descriptor but the channel and the standard
    three. `user`, `group`: who it is outside; `alive`: the end of a pipe that hangs up with
    the zygote. Raises OSError."""
    plan = request.plan
    os.dup2(request.stderr, 2)
    for entrance in request.entrances:
        os.write(entrance, b"0")  # from here on it is limited
    system.unshare(plan.namespaces & system.NEWCGROUP)
    # The zygote's session has no terminal. One of its own would take a millisecond to make
    # where the kernel schedules by session (CONFIG_SCHED_AUTOGROUP).
    os.setpgid(0, 0)
    libc.prctl(libc.PR_SET_DUMPABLE, 1)  # else its own /proc would not be its own
    be(0, user, 0, group)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    _raise_loopback()
    _socket.sethostname(plan.hostname)
    tree.build(plan.steps, request.descriptors)
    tree.enter()
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(null, 1)
    filters = [_whole(request.descriptors[number]) for number in plan.filters]
    close_all_but(request.channel, alive)
    # Out of the namespace that owns the mounts, into the last that there may be.
    _write("/proc/sys/user/max_user_namespaces", "1")
    system.unshare(system.NEWUSER)
    _map(plan.user, 0, plan.group, 0)
    os.chdir(plan.directory)
    os.umask(_FINAL_UMASK)
    system.drop_capabilities()
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # last: a change of user undoes it
    if _hung_up(alive):
        os._exit(1)
    os.close(alive)
    for program in filters:
        system.filter_calls(program)


def be(inside: int, user: int, inside_group: int, group: int) -> None:
    """Be the only one that there is in this process's own, new user namespace. `user`,
    `group`: who that is outside. Raises OSError."""
    _write("/proc/self/setgroups", "deny")  # for all that is beneath, too
    _map(inside, user, inside_group, group)


def _map(inside: int, user: int, inside_group: int, group: int) -> None:
    _write("/proc/self/gid_map", f"{inside_group} {group} 1")
    _write("/proc/self/uid_map", f"{inside} {user} 1")


def _raise_loopback() -> None:
    """The kernel gives it its addresses."""
    device = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        told = fcntl.ioctl(device, _SIOCGIFFLAGS, _INTERFACE.pack(b"lo", 0))
        flags = _INTERFACE.unpack(told)[1] | _IFF_UP
        fcntl.ioctl(device, _SIOCSIFFLAGS, _INTERFACE.pack(b"lo", flags))
    finally:
        device.close()


def _hung_up(pipe: int) -> bool:
    poll = select.poll()
    poll.register(pipe, 0)
    return bool(poll.poll(0))


def _whole(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
