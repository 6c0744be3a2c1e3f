"""One daemon for each runtime, which the tests that go through its front door share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from place import Place, client_of
from running_daemon import RunningDaemon, daemon


@pytest.fixture(scope="session", params=["local", "jail", "gvisor", "microvm"])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, templates: Path
) -> Iterator[RunningDaemon]:
    """Each runtime in turn, behind a daemon's HTTP door."""
    runtime = request.param
    state = templates if runtime == "microvm" else tmp_path_factory.mktemp(runtime)
    with daemon(state, "-pool", "1", runtime=runtime) as running:
        yield running


@pytest.fixture(scope="session")
def client(served: RunningDaemon) -> Iterator[httpx2.Client]:
    with client_of(served) as made:
        yield made


@pytest.fixture(scope="module")
def place(client: httpx2.Client) -> Iterator[Place]:
    """A sandbox that the tests of a module share: each has a directory, and tags, of its own."""
    made = Place(client)
    yield made
    made.delete()
