"""Which host directories a sandbox may be given, and that only what was opened counts."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from mas_sandbox.runtimes.base import Mount
from mas_sandbox.runtimes.shares.opening import OpenedDirectory, open_directories
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def refusal(host: Path | str, path: str = "/data", protected: tuple[Path, ...] = ()) -> str:
    with ExitStack() as undo, pytest.raises(SandboxError) as refused:
        open_directories([Mount(path, str(host))], protected, undo)
    assert refused.value.code is ErrorCode.INVALID_REQUEST
    assert str(host) in refused.value.message
    return refused.value.message


def opened(host: Path, undo: ExitStack, protected: tuple[Path, ...] = ()) -> OpenedDirectory:
    return open_directories([Mount("/data", str(host))], protected, undo)[0]


def test_a_directory_is_opened_with_its_owner(tmp_path: Path) -> None:
    with ExitStack() as undo:
        directory = opened(tmp_path, undo)
        status = tmp_path.stat()
        assert os.fstat(directory.descriptor).st_ino == status.st_ino
        assert (directory.user, directory.group) == (status.st_uid, status.st_gid)


def test_FS_10_a_symbolic_link_anywhere_in_the_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real" / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    for host in (tmp_path / "link", tmp_path / "link" / "below"):
        assert "symbolic link" in refusal(host)


def test_what_is_missing_or_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "does not exist" in refusal(tmp_path / "absent")
    assert "no directory" in refusal(tmp_path / "file")


@pytest.mark.parametrize("host", ["/", "/proc", "/proc/self", "/sys/kernel", "/dev", "/dev/shm"])
def test_the_hosts_own_machinery_is_refused(host: str) -> None:
    refusal(host)


def test_the_daemons_own_directories_are_refused_from_inside_and_from_above(tmp_path: Path) -> None:
    state = tmp_path / "var" / "state"
    (state / "below").mkdir(parents=True)
    for host in (state, state / "below"):
        assert "daemon's own" in refusal(host, protected=(state,))
    assert "holds" in refusal(tmp_path / "var", protected=(state,))
    (tmp_path / "other").mkdir()
    with ExitStack() as undo:
        opened(tmp_path / "other", undo, (state, tmp_path / "absent"))


@pytest.mark.parametrize(
    "path",
    ["/", "/usr", "/usr/local/x", "/etc", "/opt", "/opt/mas/x", "/tmp/x", "/run/x", "/dev/x"],
)
def test_a_place_that_the_sandbox_is_made_of_is_refused(path: str, tmp_path: Path) -> None:
    assert "cannot appear" in refusal(tmp_path, path)


def test_FS_04_what_was_opened_stays_whatever_takes_its_name(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    (tmp_path / "secret").mkdir()
    with ExitStack() as undo:
        directory = opened(tmp_path / "given", undo)
        (tmp_path / "given").rename(tmp_path / "moved")
        (tmp_path / "given").symlink_to("secret")
        assert os.fstat(directory.descriptor).st_ino == (tmp_path / "moved").stat().st_ino


def test_nothing_stays_open_after_a_refusal(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    (tmp_path / "a").mkdir()
    mounts = [Mount("/a", str(tmp_path / "a")), Mount("/b", str(tmp_path / "absent"))]
    with ExitStack() as undo, pytest.raises(SandboxError):
        open_directories(mounts, (tmp_path / "state",), undo)
    assert os.listdir("/proc/self/fd") == before


def test_outer_directories_come_before_those_inside_them(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    mounts = [Mount("/data/inner", str(tmp_path)), Mount("/data", str(tmp_path / "a"))]
    with ExitStack() as undo:
        found = [each.mount.path for each in open_directories(mounts, (), undo)]
    assert found == ["/data", "/data/inner"]
