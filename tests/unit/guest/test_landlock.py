"""Landlock around a call, on a real kernel: what each grant opens, and what stays shut."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import Host
from mas_sandbox.guest import landlock
from mas_sandbox.guest.refusal import Refused


@pytest.fixture
def host(workspace: Path) -> Iterator[Host]:
    with Host(workspace, "-landlock") as started:
        yield started


@pytest.fixture
def outside() -> Iterator[Path]:
    """A directory that is neither the workspace nor scratch space."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def tries(host: Host, *commands: str, grants: list[tuple[str, str]]) -> list[bool]:
    """Which of the commands succeed."""
    script = "".join(f"( {command} ) >/dev/null 2>&1; echo $?\n" for command in commands)
    return [status == b"0" for status in host.bash(script, paths=grants).stdout.split()]


def test_hello_says_whether_paths_are_held_by_the_kernel(host: Host, workspace: Path) -> None:
    assert host.hello is not None
    assert host.hello.controls == (["paths"] if landlock.abi() else [])
    with Host(workspace) as without:
        assert without.hello is not None
        assert without.hello.controls == []


def test_writing_needs_a_grant(host: Host, workspace: Path) -> None:
    (workspace / "out").mkdir()
    (workspace / "in").mkdir()
    (workspace / "in" / "data").write_text("data")
    (workspace / "secret").write_text("secret")
    assert tries(
        host,
        "echo x > out/new",
        "mkdir out/dir && mv out/new out/dir/old && rm -r out/dir",
        "cat in/data",
        "ls in",
        "echo x > in/data",
        "rm in/data",
        "ln -s /etc in/link",
        "cat secret",
        "ls .",
        "echo x > beside",
        f"cat {workspace}/../workspace/secret",
        grants=[("/workspace/out", "rw"), ("/workspace/in", "ro")],
    ) == [True, True, True, True, False, False, False, False, False, False, False]
    assert (workspace / "in" / "data").read_text() == "data"


def test_the_usual_grant_is_the_whole_workspace_and_scratch_space(
    host: Host, workspace: Path, outside: Path
) -> None:
    assert (
        tries(
            host,
            "echo x > file && cat file && ls .",
            "echo x > /dev/null && head -c 1 /dev/urandom",
            'f=$(mktemp) && rm "$f"',
            "ls / && cat /etc/passwd",
            'f=$(mktemp -p /dev/shm) && rm "$f"',
            "(sleep 1 & kill $!)",
            "true | cat /dev/stdin > /dev/stdout",
            f"ls {outside}",
            f"echo x > {outside}/file",
            f"mkdir {outside}/directory",
            "echo 0 > /proc/sys/kernel/sysrq",
            grants=[("/workspace", "rw")],
        )
        == [True] * 8 + [False] * 3
    )


def test_a_read_only_workspace_beneath_scratch_space_is_read_only(
    host: Host, workspace: Path
) -> None:
    (workspace / "file").write_text("text")
    assert tries(host, "cat file", "echo x > file", grants=[("/workspace", "ro")]) == [True, False]
    assert tries(host, "cat file", "echo x > new", grants=[]) == [False, False]


def test_a_single_file_can_be_granted(host: Host, workspace: Path) -> None:
    (workspace / "one").write_text("1")
    (workspace / "two").write_text("2")
    grants = [("/workspace/one", "rw"), ("/workspace/absent", "rw")]
    assert tries(host, "cat one && echo x > one", "cat two", "echo x > absent", grants=grants) == [
        True,
        False,
        False,
    ]


def test_a_planted_link_widens_no_grant(host: Host, workspace: Path, outside: Path) -> None:
    os.symlink(outside, workspace / "out")
    os.symlink("/", workspace / "root")
    for grant in ("/workspace/out", f"/workspace/root{outside}", f"/workspace/..{outside}"):
        result = host.bash(f"echo x > {outside}/file", paths=[(grant, "rw")]).result
        assert result is not None
        assert result.code == "invalid_request", grant
    assert os.listdir(outside) == []


def test_a_grant_outside_the_workspace_is_a_grant(host: Host, outside: Path) -> None:
    write = f"echo x > {outside}/file"
    assert tries(host, write, grants=[(str(outside), "ro")]) == [False]
    assert tries(host, write, grants=[(str(outside), "rw")]) == [True]


def test_grants_bind_to_the_directory_of_now(host: Host, workspace: Path) -> None:
    grants = [("/workspace/out", "rw")]
    (workspace / "out").mkdir()
    assert tries(host, "echo x > out/a", grants=grants) == [True]
    (workspace / "out").rename(workspace / "old")
    (workspace / "out").mkdir()
    assert tries(host, "echo x > out/a", "echo x > old/b", grants=grants) == [True, False]


def test_function_tools_are_restricted_too(host: Host, workspace: Path) -> None:
    (workspace / "file").write_text("text")
    read = host.call("read_file", {"path": "file"}, paths=[("/workspace", "ro")])
    assert read.result is not None
    assert read.result.code == ""


def test_a_call_can_signal_neither_the_toolrunner_nor_another_call(host: Host) -> None:
    other = host.start_bash("echo $$; sleep 600")
    host.until(lambda: b"\n" in other.stdout)
    signals = [f"kill -0 {pid}" for pid in (host.process.pid, int(other.stdout))]
    assert tries(host, *signals, "kill -0 $$", grants=[]) == [landlock.abi() < 6] * 2 + [True]
    host.cancel(other)
    host.finish(other)


def test_an_older_abi_is_asked_for_no_more_than_it_knows() -> None:
    known = [landlock._handled(version).bit_length() for version in range(1, 8)]
    assert known == [13, 14, 15, 15, 16, 16, 16]


def test_read_only_paths_are_refused_where_truncation_would_pass_them_by(tmp_path: Path) -> None:
    for version in (1, 2):
        with pytest.raises(Refused, match=r"Linux 6\.2"):
            landlock.allow(-1, [("/workspace/lib", "ro")], str(tmp_path), version)
