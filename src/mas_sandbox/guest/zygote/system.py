"""The system calls that a jail is built with, called through `ctypes`.

Sources: mount(2), pivot_root(2), mount_setattr(2), clone(2), capset(2), seccomp(2), and the
kernel's include/uapi/linux/{sched,mount,capability,prctl,seccomp}.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct

NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC = 0x2, 0x4, 0x8, 0x1000, 0x4000
MS_PRIVATE, MS_REMOUNT, MS_RDONLY, MNT_DETACH = 0x40000, 0x20, 0x1, 2
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 0x1, 0x2, 0x4
PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_CAP_AMBIENT = 22, 24, 47
_CAP_AMBIENT_RAISE, _CAP_AMBIENT_CLEAR_ALL, _SECCOMP_MODE_FILTER = 2, 4, 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES = 64  # as many as a set of the kernel's can hold
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
CAP_KILL, CAP_SETGID, CAP_SETUID = 1 << 5, 1 << 6, 1 << 7
CAP_SETPCAP, CAP_SYS_ADMIN = 1 << 8, 1 << 21
_MOUNT_SETATTR = 442  # the same on every architecture but alpha
_CLONE = {"x86_64": 56, "aarch64": 220}
_INSTRUCTION_BYTES = 8

_libc = ctypes.CDLL(None, use_errno=True)
_held = ctypes.PyDLL(None, use_errno=True)
"""The same, and Python's own, called without letting go of the interpreter."""


def clone(namespaces: int) -> int:
    """Fork into new namespaces; 0 in the child, which is process 1 of the new ones.

    The kernel's call and not the C library's fork, which knows no flags; Python is told of
    it as its documentation asks of "any similar function that clones the current process"
    (PyOS_AfterFork_Child). For a process of one thread. Raises OSError.
    """
    number = _CLONE[os.uname().machine]
    _held.PyOS_BeforeFork()
    flags = ctypes.c_ulong(namespaces | signal.SIGCHLD)
    pid = _held.syscall(ctypes.c_long(number), flags, None, None, None, None)
    if pid == 0:
        _held.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    _held.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone: {os.strerror(error)}")
    return int(pid)


def unshare(namespaces: int) -> None:
    _checked("unshare", _libc.unshare(namespaces))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [os.fsencode(word) for word in (source, target, kind)]
    result = _libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(options) or None)
    _checked(f"mount {kind or source} on {target}", result)


def restrict(target: str, attributes: int, *, recursive: bool) -> None:
    """Add attributes to what is mounted there, and leave all others as they are."""
    packed = struct.pack("=QQQQ", attributes, 0, 0, 0)
    flags = _AT_RECURSIVE if recursive else 0
    result = _libc.syscall(
        ctypes.c_long(_MOUNT_SETATTR),
        *(ctypes.c_long(_AT_FDCWD), os.fsencode(target), ctypes.c_ulong(flags)),
        *(packed, ctypes.c_size_t(len(packed))),
    )
    _checked(f"mount_setattr {target}", result)


def enter_root(path: str) -> None:
    """Make what is mounted there the root, with nothing of the old one left beneath."""
    os.chdir(path)
    _checked("pivot_root", _libc.pivot_root(b".", b"."))
    _checked("umount2", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def prctl(option: int, value: int = 0) -> int:
    """prctl(2) with one argument. Raises OSError."""
    wide = [ctypes.c_ulong(word) for word in (value, 0, 0, 0)]
    return _checked(f"prctl {option}", _libc.prctl(option, *wide))


def drop_capabilities(kept: int = 0) -> None:
    """All of them but a set of `kept`, for ever: also those that a program run later could
    be given."""
    for capability in range(_CAPABILITIES):
        if _libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) < 0:
            if ctypes.get_errno() == errno.EINVAL:
                break  # past the last that this kernel knows
            _checked(f"capability {capability}", -1)
    prctl(PR_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    _set_capabilities(kept, 0)


def keep_capabilities(kept: int) -> None:
    """Hold these of the lower 32 and no others, also in the program that is executed next."""
    _set_capabilities(kept, kept)
    for capability in range(_CAPABILITIES):
        if kept >> capability & 1:
            words = [ctypes.c_ulong(word) for word in (_CAP_AMBIENT_RAISE, capability, 0, 0)]
            _checked("ambient capability", _libc.prctl(PR_CAP_AMBIENT, *words))


def _set_capabilities(held: int, inheritable: int) -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    # Effective, permitted and inheritable, of the lower 32 and of the others.
    _checked("capset", _libc.capset(header, struct.pack("=6I", held, held, inheritable, 0, 0, 0)))


def filter_calls(program: bytes) -> None:
    """Have a program of classic BPF judge every later system call, beside those before it."""
    kept = ctypes.create_string_buffer(program, len(program))
    count = len(program) // _INSTRUCTION_BYTES
    header = struct.pack("@HP", count, ctypes.addressof(kept))  # struct sock_fprog
    mode = ctypes.c_ulong(_SECCOMP_MODE_FILTER)
    _checked("seccomp", _libc.prctl(PR_SET_SECCOMP, mode, header, 0, 0))


class CommandLine:
    """The memory that /proc/PID/cmdline and `ps` show, proc_pid_stat(5)."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        self._start, end = (int(fields[number - 3]) for number in (48, 49))
        self._size = end - self._start

    def say(self, words: list[str]) -> None:
        """As much of it as there is room for."""
        said = b"".join(os.fsencode(word) + b"\0" for word in words)[: self._size - 1]
        ctypes.memset(self._start, 0, self._size)
        ctypes.memmove(self._start, said, len(said))


def _checked(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
