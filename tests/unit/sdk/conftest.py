"""A real daemon for the tests of the SDK's sandboxes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mas_sandbox.sdk import Sandbox
from running_daemon import TOKEN, RunningDaemon, daemon


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as started:
        yield started


@pytest.fixture(scope="module")
def sb(running: RunningDaemon) -> Iterator[Sandbox]:
    """One sandbox for all tests of a module: each has names of its own in it."""
    with Sandbox.create(running.url, TOKEN) as made:
        yield made
