"""How fast this host's time stamp counter runs, for a guest that should not have to find out.

Under emulation the guest's counter is the host's own (`cpu_get_host_ticks` in QEMU's
include/qemu/timer.h), and its kernel measures it while it boots, against an emulated timer.
On a host as busy as that it was seen to find 697 MHz for 2300: the clock of that machine, and
of each of its clones, ran three times too fast. So it is told.
"""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CODE = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx, 32; or rax, rdx; ret
_WINDOW_S = 0.1
_LOOKS = 16
_PR_GET_TSC, _PR_TSC_ENABLE = 25, 1  # prctl(2)
_FAILED = ctypes.c_void_p(-1).value  # MAP_FAILED, mmap(2)


async def tsc_khz() -> int | None:
    """Thousands of ticks in a second of the monotonic clock.

    None where it cannot be read: on another processor, and in a process that may not read
    the counter (PR_SET_TSC in prctl(2)) or may not run code that it has written.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not _may_be_read():
        return None
    with _counter() as read:
        if read is None:
            return None
        ticks, began = _look(read)
        await asyncio.sleep(_WINDOW_S)
        more, ended = _look(read)
    return (more - ticks) * 1_000_000 // (ended - began)


def _look(read: Callable[[], int]) -> tuple[int, int]:
    """The counter, and the monotonic clock in nanoseconds: the pair that was read the closest
    together, for this process may lose its processor in between."""

    def pair() -> tuple[int, int, int]:
        before = time.monotonic_ns()
        ticks = read()
        took = time.monotonic_ns() - before
        return took, ticks, before + took // 2

    _, ticks, at = min(pair() for _ in range(_LOOKS))
    return ticks, at


def _may_be_read() -> bool:
    found = ctypes.c_int()
    libc = ctypes.CDLL(None)
    return libc.prctl(_PR_GET_TSC, ctypes.byref(found), 0, 0, 0) == 0 and (
        found.value == _PR_TSC_ENABLE
    )


@contextmanager
def _counter() -> Iterator[Callable[[], int] | None]:
    """What reads it: no function of any library does."""
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    page = libc.mmap(None, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if page == _FAILED:
        yield None
        return
    try:
        ctypes.memmove(page, _CODE, len(_CODE))
        if libc.mprotect(page, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC):
            yield None  # SELinux, or a unit's MemoryDenyWriteExecute=
        else:
            yield ctypes.CFUNCTYPE(ctypes.c_uint64)(page)
    finally:
        libc.munmap(page, mmap.PAGESIZE)
