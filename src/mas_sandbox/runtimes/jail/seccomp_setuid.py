"""A second filter, for jails that may write a host directory: nothing becomes setuid.

What a jail makes there belongs outside to the directory's owner, and a program of the
owner's that is setuid gives whoever runs it on the host the owner's rights. `nosuid`
holds inside the mount alone. (systemd's RestrictSUIDSGID does the same, systemd.exec(5).)
"""

from __future__ import annotations

import errno
import platform
import struct
from collections.abc import Iterable, Mapping

_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARGUMENTS = 0, 16
_SETUID_OR_SETGID = 0o6000
_CREATES = 0o100 | 0o20000000
"""O_CREAT, O_TMPFILE: without them the mode that open is passed means nothing."""

_MODE_AT = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2} | (
    {"creat": 1, "mknod": 1, "mknodat": 2, "open": 2, "openat": 3}
)
"""Which argument of each call is the mode. mkdir drops these bits by itself."""
_FLAGS_AT = {"open": 1, "openat": 2}
_OPENAT2 = 437
"""Its mode lies behind a pointer that a filter cannot read; programs fall back to openat."""
_X86_64 = {"open": 2, "creat": 85, "chmod": 90, "fchmod": 91, "mknod": 133, "openat": 257} | (
    {"mknodat": 259, "fchmodat": 268, "fchmodat2": 452}
)
_AARCH64 = {"mknodat": 33, "fchmod": 52, "fchmodat": 53, "openat": 56, "fchmodat2": 452}
"""asm/unistd_64.h and asm-generic/unistd.h, of the machines that `seccomp_tables` knows."""
_NUMBERS = {"x86_64": _X86_64, "aarch64": _AARCH64}


def setuid_filter(machine: str = "") -> bytes:
    """The filter for this machine, or the named one, beside `seccomp.jail_filter`."""
    numbers = _NUMBERS[machine or platform.machine()]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in _program(numbers))


def _program(numbers: Mapping[str, int]) -> Iterable[tuple[int, int, int, int]]:
    yield (_LOAD, 0, 0, _NUMBER)
    yield (_JUMP_EQUAL, 0, 1, _OPENAT2)
    yield (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)
    for name, number in numbers.items():
        body = [
            (_LOAD, 0, 0, _ARGUMENTS + 8 * _MODE_AT[name]),
            (_JUMP_ANY_BIT, 0, 1, _SETUID_OR_SETGID),
            (_RETURN, 0, 0, _ERRNO | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
        if name in _FLAGS_AT:
            body = [
                (_LOAD, 0, 0, _ARGUMENTS + 8 * _FLAGS_AT[name]),
                (_JUMP_ANY_BIT, 0, len(body) - 1, _CREATES),
                *body,
            ]
        yield (_JUMP_EQUAL, 0, len(body), number)
        yield from body
    yield (_RETURN, 0, 0, _ALLOW)
