"""Which releases of runsc are warned about."""

from __future__ import annotations

import pytest

from mas_sandbox.runtimes.gvisor.version import FLOOR, release_date, warning


@pytest.mark.parametrize(
    ("said", "date"),
    [
        ("runsc version 0.0~20221219.0\nspec: 1.0.2-dev", 20221219),
        ("runsc version release-20250319.0\nspec: 1.1.0-rc.1", 20250319),
        ("runsc version VERSION_MISSING", 0),
        ("runsc version 120221219", 0),
    ],
)
def test_the_release_is_a_date(said: str, date: int) -> None:
    assert release_date(said) == date


def test_an_old_release_is_warned_about_by_advisory() -> None:
    assert "CVE-2025-2713" in warning(20221219)
    assert "CVE-2023-7258" in warning(20221219)
    assert "20221219" in warning(20221219)
    assert "unknown date" in warning(0)


def test_a_release_at_the_floor_is_not() -> None:
    assert warning(FLOOR) == ""
    assert warning(FLOOR - 1) != ""
