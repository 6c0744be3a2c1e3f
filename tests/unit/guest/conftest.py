from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import Host


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    directory = tmp_path / "workspace"
    directory.mkdir()
    return directory


@pytest.fixture
def host(workspace: Path) -> Iterator[Host]:
    with Host(workspace) as started:
        yield started
