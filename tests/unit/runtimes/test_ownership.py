"""Who made what: a token is somebody's exactly as long as its lock is held."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mas_sandbox.runtimes.ownership import Ownership


def test_a_live_daemons_things_are_not_abandoned(tmp_path: Path) -> None:
    one, two = Ownership(tmp_path), Ownership(tmp_path)
    assert not one.abandoned(two.name("1"))
    assert not one.abandoned(one.name("1"))
    two.close()
    assert one.abandoned(two.name("1"))
    one.close()


def test_a_killed_daemons_things_are_abandoned(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib\n"
        "from mas_sandbox.runtimes.ownership import Ownership\n"
        "owner = Ownership(pathlib.Path(sys.argv[1])); print(owner.name('1'), flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        mine = Ownership(tmp_path)
        assert not mine.abandoned(name)
        process.kill()
        process.wait()
    assert mine.abandoned(name)
    newer = Ownership(tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {mine.token, newer.token}
    mine.close()
    newer.close()
    assert list(tmp_path.iterdir()) == []


def test_a_daemon_never_judges_tokens_whose_locks_are_elsewhere(tmp_path: Path) -> None:
    here, elsewhere = Ownership(tmp_path / "a"), Ownership(tmp_path / "b")
    name = elsewhere.name("1")
    assert not here.abandoned(name)
    elsewhere.close()
    assert not here.abandoned(name)
    here.close()


def test_names_that_are_not_ours_are_never_abandoned(tmp_path: Path) -> None:
    owner = Ownership(tmp_path)
    for name in ("", "home", "mas-sandbox-", "mas-sandbox-../../etc-1", "mas-sandbox-probe-17"):
        assert not owner.abandoned(name)
    owner.close()


def test_a_directory_that_others_can_write_is_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    os.chmod(shared, 0o777)
    with pytest.raises(PermissionError, match="0700"):
        Ownership(shared)
