"""The rate of the time stamp counter, which an emulated guest cannot be trusted to find."""

from __future__ import annotations

import platform
import sys

import pytest

from mas_sandbox.runtimes.microvm.qemu import tsc
from mas_sandbox.runtimes.microvm.qemu.tsc import tsc_khz

pytestmark = pytest.mark.anyio

counts = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="x86's counter, on Linux"
)


@counts
async def test_it_is_found_alike_whatever_the_host_does() -> None:
    found = [await tsc_khz() for _ in range(3)]
    assert all(each is not None for each in found)
    known = [each for each in found if each is not None]
    assert 100_000 < min(known) <= max(known) < min(known) * 1.001


@counts
async def test_where_code_may_not_be_made_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsc.mmap, "PAGESIZE", -1)  # which no mapping has
    assert await tsc_khz() is None


async def test_another_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert await tsc_khz() is None
