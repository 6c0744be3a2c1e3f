"""The system call filters that a process is under, read back from the kernel.

ptrace(2), PTRACE_SECCOMP_GET_FILTER: needs CAP_SYS_ADMIN, and a reader under no filter itself.
"""

from __future__ import annotations

import ctypes
import hashlib
import os

_SEIZE, _INTERRUPT, _DETACH, _GET_FILTER = 0x4206, 0x4207, 17, 0x420C
_WALL = 0x40000000
_INSTRUCTION = 8
"""Bytes of a `struct sock_filter`."""


def filters_of(process: int) -> list[str]:
    """SHA-256 of each filter of its first thread, the latest first. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(request: int, number: int = 0, data: object = None) -> int:
        answer: int = libc.ptrace(request, process, number, data)
        if answer < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return answer

    ptrace(_SEIZE)
    try:
        ptrace(_INTERRUPT)
        os.waitpid(process, _WALL)
        found: list[str] = []
        while True:
            try:
                count = ptrace(_GET_FILTER, len(found))
            except FileNotFoundError:  # there are no more
                return found
            except OSError as error:
                if error.errno == 22 and not found:  # under none at all
                    return found
                raise
            program = ctypes.create_string_buffer(count * _INSTRUCTION)
            ptrace(_GET_FILTER, len(found), program)
            found.append(hashlib.sha256(program.raw).hexdigest())
    finally:
        ptrace(_DETACH)
