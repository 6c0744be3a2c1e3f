"""The system calls beneath `os`: their results and their errors."""

from __future__ import annotations

import errno
import os

import pytest

from mas_sandbox.guest import libc

_SYS_LANDLOCK_CREATE_RULESET = 444


def test_errors_become_oserror_with_their_number() -> None:
    with pytest.raises(OSError, match="Invalid argument") as raised:
        libc.prctl(0x7FFFFFFF, 0)
    assert raised.value.errno == errno.EINVAL
    with pytest.raises(OSError, match=os.strerror(errno.ENOSYS)):
        libc.syscall(4000)


def test_a_pointer_is_passed_as_bytes() -> None:
    if libc.LINUX:
        with pytest.raises(OSError, match=r".") as raised:
            libc.syscall(_SYS_LANDLOCK_CREATE_RULESET, b"\0" * 8, 1, 0)  # too short to be one
        assert raised.value.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
