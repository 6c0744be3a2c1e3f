"""What follows from what a probe's call saw."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from mas_sandbox.runtimes.gvisor.attempts import judge

HELD: dict[str, Any] = {
    "clone3": errno.ENOSYS,
    "unshare": errno.EPERM,
    "mount": errno.EPERM,
    "nfsservctl": errno.ENOSYS,
    "writable": ["/dev/shm", "/tmp", "/workspace"],
    "statx": 0,
}


def test_all_that_holds_is_no_problem() -> None:
    found = judge(HELD)
    assert (found.problem, found.returns_errors, found.mends_statx) == ("", True, False)


@pytest.mark.parametrize(
    "saw",
    [{"clone3": 0}, {"unshare": 0}, {"mount": 0}, {"mount": errno.ENOENT}],
)
def test_a_namespace_of_a_calls_own_is(saw: dict[str, Any]) -> None:
    assert "without a size" in judge(HELD | saw).problem


def test_a_place_to_write_without_a_size_is() -> None:
    assert "/dev" in judge(HELD | {"writable": ["/dev", "/tmp", "/workspace"]}).problem


def test_a_filter_that_knows_one_error_is_found_out() -> None:
    assert not judge(HELD | {"nfsservctl": errno.EPERM}).returns_errors
