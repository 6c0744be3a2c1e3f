"""Which part of a file is asked for (RFC 9110, section 14.1.2)."""

from __future__ import annotations

import pytest

from mas_sandbox.server.http.ranges import Unsatisfiable, part


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("bytes=0-4", (0, 5)),
        ("bytes=5-", (5, 5)),
        ("bytes=9-100", (9, 1)),
        ("bytes=-3", (7, 3)),
        ("bytes=-30", (0, 10)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=4-2", None),
        ("bytes=0-1,3-4", None),
        ("lines=0-1", None),
        ("bytes=+1-2", None),
        ("bytes=" + "9" * 40 + "-", None),
    ],
)
def test_one_range_of_bytes_is_honoured(header: str | None, wanted: tuple[int, int] | None) -> None:
    assert part(header, 10) == wanted


@pytest.mark.parametrize("header", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_what_is_not_there_is_unsatisfiable(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        part(header, 10)
