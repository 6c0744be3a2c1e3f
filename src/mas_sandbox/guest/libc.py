"""The few system calls that `os` does not offer, called through `_ctypes`.

`import ctypes` costs 4 ms at every start of a sandbox; the extension module
beneath it, which has the same three pieces, costs less than one.
"""

from __future__ import annotations

import _ctypes
import errno
import os
import sys

LINUX = sys.platform == "linux"

# prctl(2)
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38


TYPE_CHECKING = False
if TYPE_CHECKING:
    _Simple = _ctypes._SimpleCData[int]
else:
    _Simple = _ctypes._SimpleCData


class _Int(_Simple):
    _type_ = "i"


class _Long(_Simple):
    _type_ = "l"


class _Syscall(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Long


class _Function(_ctypes.CFuncPtr):
    _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
    _restype_ = _Int


_PROGRAM = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # dlopen(3): NULL is the program
_syscall = _Syscall(_ctypes.dlsym(_PROGRAM, "syscall"))
_prctl = _Function(_ctypes.dlsym(_PROGRAM, "prctl")) if LINUX else None


def syscall(number: int, *arguments: int | bytes) -> int:
    """The result of a system call whose pointers are only read. Raises OSError."""
    wide = [word if isinstance(word, bytes) else _Long(word) for word in arguments]
    result: int = _syscall(_Long(number), *wide)
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(name: str, *arguments: int | bytes) -> int:
    """The result of a function of the C library that returns an int and only reads what
    it is pointed to. Raises OSError, ENOSYS where there is no such function."""
    try:
        function = _Function(_ctypes.dlsym(_PROGRAM, name))
    except OSError as error:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from error
    wide = [word if isinstance(word, bytes) else _Long(word) for word in arguments]
    result: int = function(*wide)
    if result < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def prctl(option: int, value: int) -> None:
    """prctl(2) with one argument; nothing at all where there is no prctl. Raises OSError."""
    if _prctl is not None and _prctl(option, _Long(value), _Long(0), _Long(0), _Long(0)) < 0:
        number = _ctypes.get_errno()
        raise OSError(number, os.strerror(number))
