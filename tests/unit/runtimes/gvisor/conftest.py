"""A gVisor to test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.ownership import Ownership


@pytest.fixture
async def gvisor() -> AsyncIterator[GvisorRuntime]:
    built = GvisorRuntime(Ownership())
    probe = await built.probe()
    assert probe.available, f"gvisor: {probe.reason}; to mend it: {probe.mend}"
    yield built
    await built.close()
