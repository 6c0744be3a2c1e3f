"""Files: whatever the path, and whoever moves the tree, nothing outside a grant is touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mas_sandbox.guest import beneath
from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure

SENTINEL = b"the sentinel"
OPENERS = [beneath.openat2, beneath.walk]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace beside what must stay untouched."""
    top = tmp_path / "ws"
    top.mkdir()
    for outside in (tmp_path / "outside", tmp_path / "ws-evil"):
        outside.mkdir()
        (outside / "sentinel").write_bytes(SENTINEL)
    return top


@pytest.fixture(params=OPENERS, ids=lambda opener: opener.__name__)
def files(request: pytest.FixtureRequest, workspace: Path) -> Files:
    return Files([("/workspace", "rw")], str(workspace), opener=request.param)


def failure(function: Callable[..., object], *args: object, **more: object) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        function(*args, **more)
    return caught.value


def read(files: Files, path: str) -> bytes:
    with files.open_file(path) as file:
        return file.read()


def outside_is_untouched(workspace: Path) -> bool:
    parent = workspace.parent
    return all(
        {path.name: path.read_bytes() for path in (parent / name).iterdir()}
        == {"sentinel": SENTINEL}
        for name in ("outside", "ws-evil")
    ) and {path.name for path in parent.iterdir()} == {"ws", "outside", "ws-evil"}


def test_relative_and_absolute_paths_name_the_same_file(files: Files, workspace: Path) -> None:
    files.replace("a/b.txt", b"one", create_dirs=True)
    assert (
        read(files, "/workspace/a/b.txt")
        == read(files, "a//./b.txt")
        == read(files, "//workspace/./a/b.txt")
        == b"one"
    )
    assert (workspace / "a" / "b.txt").read_bytes() == b"one"


ESCAPES = [
    "../outside/sentinel",
    "a/../../outside/sentinel",
    "/workspace/../outside/sentinel",
    "/workspace-evil/sentinel",
    "../ws-evil/sentinel",
    "/var/tmp/mas-sandbox-escape",  # never a file that matters, should the guard be gone
    "/",
    "file_link",
    "dir_link/sentinel",
    "chain/sentinel",
    "relative_link/sentinel",
    "prefix_link/sentinel",
    "dangling",
    "dangling_dir/new",
    "root_link/var/tmp/mas-sandbox-escape",
    "a/deep_link/outside/sentinel",
    "a/absolute_link",
]
MALFORMED = ["", "nul\0byte", "/workspace/\0", "x/" * 2500, "n" * 5000, "n" * 300, "lone\udc80"]


@pytest.fixture
def trapped(workspace: Path) -> Path:
    outside = workspace.parent / "outside"
    (workspace / "a").mkdir()
    links = {
        "file_link": outside / "sentinel",
        "dir_link": outside,
        "chain": "chain_2",
        "chain_2": "a/../dir_link",
        "relative_link": "../outside",
        "prefix_link": "../ws-evil",
        "dangling": "../outside/new",
        "dangling_dir": "../new",
        "root_link": "/",
        "a/deep_link": "../..",
        "a/absolute_link": outside / "sentinel",
    }
    for name, target in links.items():
        (workspace / name).symlink_to(target)
    return workspace


@pytest.mark.parametrize("path", ESCAPES + MALFORMED, ids=lambda path: ascii(path)[:30])
def test_a_path_that_leads_outside_is_an_invalid_request(
    files: Files, trapped: Path, path: str
) -> None:
    attempts: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (files.open_file, (path,)),
        (files.open_any, (path,)),
        (files.open_directory, (path,)),
        (files.replace, (path, b"x")),
        (files.replace, (path, b"x", True)),
        (files.append, (path, b"x")),
        (files.append, (path, b"x", True)),
    ]
    for function, args in attempts:
        refusal = failure(function, *args)
        assert refusal.code == "invalid_request", (function, refusal.message)
        assert str(trapped) not in refusal.message
        assert len(refusal.message) < 400
        assert "\n" not in refusal.message and refusal.message.isprintable()
    assert outside_is_untouched(trapped)


@pytest.mark.parametrize("path", ESCAPES[:7] + MALFORMED, ids=lambda path: ascii(path)[:30])
@pytest.mark.parametrize("recursive", [False, True])
def test_nothing_outside_is_deleted(
    files: Files, trapped: Path, path: str, recursive: bool
) -> None:
    assert failure(files.remove, path, recursive).code == "invalid_request"
    assert outside_is_untouched(trapped)


def test_deleting_a_link_leaves_what_it_leads_to(files: Files, trapped: Path) -> None:
    for path in ("dir_link", "file_link", "dangling", "chain/", "root_link"):
        files.remove(path, recursive=True)
        assert not (trapped / path.rstrip("/")).is_symlink()
    assert failure(files.remove, "relative_link/sentinel").code == "invalid_request"
    files.remove("a", recursive=True)
    assert outside_is_untouched(trapped)


def test_links_that_stay_beneath_are_followed(files: Files, workspace: Path) -> None:
    (workspace / "real").mkdir()
    (workspace / "real" / "file").write_bytes(b"old")
    (workspace / "dir").symlink_to("real")
    (workspace / "link").symlink_to("dir/file")
    (workspace / "new").symlink_to("real/made")
    assert read(files, "link") == b"old"
    files.replace("link", b"new")
    files.append("link", b"er")
    files.replace("new", b"made")
    assert (workspace / "link").is_symlink()
    assert (workspace / "real" / "file").read_bytes() == b"newer"
    assert (workspace / "real" / "made").read_bytes() == b"made"


def test_a_loop_of_links_ends(files: Files, workspace: Path) -> None:
    (workspace / "loop").symlink_to("loop")
    assert failure(files.open_file, "loop").code == "invalid_request"
    assert failure(files.replace, "loop", b"x").code == "invalid_request"


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """A thread does `act` again and again, whatever of it succeeds."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError):
                act()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def swap(one: Path, other: Path) -> None:
    os.rename(one, one.with_name("away"))
    os.rename(other, one)
    os.rename(one, other)
    os.rename(one.with_name("away"), one)


def for_seconds(seconds: float) -> Iterator[None]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        yield


def test_no_write_escapes_while_a_directory_is_swapped_for_a_link(
    files: Files, workspace: Path
) -> None:
    (workspace / "dir").mkdir()
    (workspace / "link").symlink_to("../outside")
    written = refused = 0
    with meanwhile(lambda: swap(workspace / "dir", workspace / "link")):
        for _ in for_seconds(0.7):
            for write in (files.replace, files.append):
                try:
                    write("dir/file", b"x")
                    written += 1
                except ToolFailure as error:
                    refused += error.code == "invalid_request"
            with contextlib.suppress(ToolFailure):
                assert read(files, "dir/sentinel") != SENTINEL
    assert written and refused, "the race was not run"
    assert outside_is_untouched(workspace)


def test_no_write_escapes_while_a_file_is_swapped_for_a_link(files: Files, workspace: Path) -> None:
    (workspace / "file").write_bytes(b"")
    (workspace / "link").symlink_to("../outside/sentinel")
    with meanwhile(lambda: swap(workspace / "file", workspace / "link")):
        for _ in for_seconds(0.7):
            with contextlib.suppress(ToolFailure):
                files.append("file", b"x")
            with contextlib.suppress(ToolFailure):
                assert read(files, "file") != SENTINEL
    assert outside_is_untouched(workspace)


def test_deleting_takes_nothing_with_it_while_a_directory_is_swapped_for_a_link(
    files: Files, workspace: Path
) -> None:
    tree = workspace / "tree"
    with meanwhile(lambda: swap(tree / "dir", tree / "link")):
        for _ in for_seconds(0.7):
            with contextlib.suppress(OSError):
                (tree / "dir").mkdir(parents=True)
            with contextlib.suppress(OSError):
                (tree / "link").symlink_to("../../outside")
            with contextlib.suppress(ToolFailure):
                files.remove("tree", recursive=True)
    assert outside_is_untouched(workspace)


def test_deleting_takes_nothing_beside_it_when_a_directory_is_moved_away(
    files: Files, workspace: Path
) -> None:
    keep = workspace / "keep"
    keep.mkdir()
    (keep / "precious").write_bytes(SENTINEL)
    inner = workspace / "tree" / "inner"
    with meanwhile(lambda: os.rename(inner, keep / "inner")):
        for _ in for_seconds(0.7):
            shutil.rmtree(keep / "inner", ignore_errors=True)
            with contextlib.suppress(OSError):
                for name in range(20):
                    (inner / str(name)).mkdir(parents=True)
            with contextlib.suppress(ToolFailure):
                files.remove("tree", recursive=True)
    assert (keep / "precious").read_bytes() == SENTINEL


def test_what_is_no_regular_file_is_refused_without_waiting(files: Files, workspace: Path) -> None:
    os.mkfifo(workspace / "fifo")
    (workspace / "dir").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(workspace, os.O_RDONLY)
        try:  # the path of a socket has to be short
            listener.bind(f"/proc/self/fd/{here}/socket")
        finally:
            os.close(here)
    for path in ("fifo", "socket"):
        for attempt in (
            failure(files.open_file, path),
            failure(files.replace, path, b"x"),
            failure(files.append, path, b"x"),
        ):
            assert attempt.code == "tool_failed"
            assert "not a regular file" in attempt.message
    for attempt in (failure(files.open_file, "dir"), failure(files.replace, "dir", b"x")):
        assert "Is a directory" in attempt.message
    assert stat.S_ISFIFO((workspace / "fifo").stat().st_mode)


def test_a_device_is_refused() -> None:
    files = Files([("/dev", "rw")], "/nowhere")
    for path in ("/dev/zero", "/dev/null"):
        assert "not a regular file" in failure(files.open_file, path).message
        assert "not a regular file" in failure(files.replace, path, b"x").message
        assert "not a regular file" in failure(files.append, path, b"x").message
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_read_only_grant_refuses_every_write(tmp_path: Path, workspace: Path) -> None:
    (workspace / "file").write_bytes(b"old")
    files = Files([("/workspace", "ro")], str(workspace))
    assert read(files, "file") == b"old"
    for attempt in (
        failure(files.replace, "file", b"x"),
        failure(files.append, "file", b"x"),
        failure(files.remove, "file"),
        failure(files.replace, "new/file", b"x", True),
    ):
        assert attempt.code == "invalid_request"
        assert "reading only" in attempt.message
    assert os.listdir(workspace) == ["file"]


def test_a_read_only_path_inside_a_writable_one_stays_read_only(workspace: Path) -> None:
    (workspace / "vendor").mkdir()
    (workspace / "vendor" / "file").write_bytes(b"old")
    (workspace / "link").symlink_to("vendor")
    (workspace / "file_link").symlink_to("vendor/file")
    (workspace / "sub").mkdir()
    files = Files([("/workspace", "rw"), ("/workspace/vendor", "ro")], str(workspace))
    for path in (
        "vendor/file",
        "link/file",
        "file_link",
        "sub/../vendor/file",
        "./vendor/file",
        "//workspace//vendor/file",
    ):
        assert failure(files.replace, path, b"x").code == "invalid_request"
        assert failure(files.append, path, b"x").code == "invalid_request"
        if path != "file_link":
            assert failure(files.remove, path).code == "invalid_request"
    for path in ("vendor", "vendor/", ".", "/workspace", "./vendor"):
        assert failure(files.remove, path, recursive=True).code == "invalid_request"
    files.replace("sub/own", b"x")
    assert read(files, "link/file") == b"old"


def test_a_directory_above_a_granted_path_is_not_deleted(workspace: Path) -> None:
    (workspace / "sub" / "vendor").mkdir(parents=True)
    for mode in ("ro", "rw"):
        files = Files([("/workspace", "rw"), ("/workspace/sub/vendor", mode)], str(workspace))
        refusal = failure(files.remove, "sub", recursive=True)
        assert refusal.code == "invalid_request"
        assert "granted path" in refusal.message
    assert (workspace / "sub" / "vendor").is_dir()


def test_a_narrow_grant_opens_nothing_beside_it(workspace: Path) -> None:
    (workspace / "sub").mkdir()
    (workspace / "sub" / "mine").write_bytes(b"mine")
    (workspace / "other").write_bytes(b"other")
    (workspace / "sub" / "out").symlink_to("../other")
    (workspace / "granted_link").symlink_to(".")
    files = Files([("/workspace/sub", "rw"), ("/workspace/granted_link", "rw")], str(workspace))
    assert read(files, "sub/mine") == b"mine"
    for path in ("other", "sub/../other", "sub/out", ".", "subway"):
        refusal = failure(files.open_file, path)
        assert refusal.code == "invalid_request"
        assert "/workspace/sub" in refusal.message
    # A grant that was replaced by a link grants nothing.
    assert failure(files.open_file, "granted_link/other").code == "tool_failed"


def test_a_granted_path_outside_the_workspace_is_opened_there(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "input").write_bytes(b"input")
    files = Files([("/workspace", "rw"), (str(data), "ro")], str(tmp_path))
    assert read(files, f"{data}/input") == b"input"
    assert failure(files.replace, f"{data}/input", b"x").code == "invalid_request"


def test_no_grant_means_no_file(workspace: Path) -> None:
    refusal = failure(Files([], str(workspace)).open_directory, ".")
    assert refusal.code == "invalid_request"


def test_replacing_keeps_the_mode_and_leaves_no_temporary_file(
    files: Files, workspace: Path
) -> None:
    script = workspace / "script"
    script.write_bytes(b"old")
    script.chmod(0o4751)
    files.replace("script", b"new")
    assert stat.S_IMODE(script.stat().st_mode) == 0o751
    assert script.read_bytes() == b"new"
    assert os.listdir(workspace) == ["script"]


def test_a_reader_sees_the_old_content_or_the_new(files: Files, workspace: Path) -> None:
    files.replace("file", b"a" * 100_000)
    with files.open_file("file") as before:
        files.replace("file", b"b")
        assert before.read() == b"a" * 100_000
    assert read(files, "file") == b"b"


def test_a_hard_link_elsewhere_keeps_its_content(files: Files, workspace: Path) -> None:
    os.link(workspace.parent / "outside" / "sentinel", workspace / "hard")
    files.replace("hard", b"mine")
    assert outside_is_untouched(workspace)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(files: Files, workspace: Path) -> None:
    files.replace("file", b"old")
    pid = os.fork()
    if pid == 0:  # only here: the limit is for good
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        refused = failure(files.replace, "file", b"x" * 5000).code == "tool_failed"
        os._exit(0 if refused else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.listdir(workspace) == ["file"]
    assert read(files, "file") == b"old"


def test_missing_directories_are_made_only_when_asked(files: Files, workspace: Path) -> None:
    missing = failure(files.replace, "a/b/c", b"x")
    assert (missing.code, missing.message) == (
        "tool_failed",
        "'a/b/c': No such file or directory",
    )
    files.replace("a/b/c", b"x", create_dirs=True)
    assert read(files, "a/b/c") == b"x"
    assert failure(files.replace, "a/b/c/d", b"x", create_dirs=True).code == "tool_failed"


def test_a_path_of_two_thousand_directories_is_made_and_deleted(workspace: Path) -> None:
    files = Files([("/workspace", "rw")], str(workspace))
    files.replace("d/" * 2000 + "file", b"x", create_dirs=True)
    assert read(files, "d/" * 2000 + "file") == b"x"
    files.remove("d", recursive=True)
    assert os.listdir(workspace) == []


def test_a_directory_is_deleted_whole_only_when_asked(files: Files, workspace: Path) -> None:
    for name in ("tree/a/file", "tree/b", "tree/c/d/e", "tree/c/f"):
        files.replace(name, b"x", create_dirs=True)
    assert "recursive" in failure(files.remove, "tree").message
    files.remove("tree/b")
    files.remove("tree", recursive=True)
    assert os.listdir(workspace) == []
    assert "No such file" in failure(files.remove, "tree").message


@pytest.mark.parametrize("path", [".", "/workspace", "/workspace/", "./.", "//workspace", "a/.."])
def test_the_workspace_itself_is_never_deleted(files: Files, workspace: Path, path: str) -> None:
    files.replace("a/file", b"x", create_dirs=True)
    assert failure(files.remove, path, recursive=True).code == "invalid_request"
    assert read(files, "a/file") == b"x"


def test_no_descriptor_is_left_open(files: Files, trapped: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in [*ESCAPES, *MALFORMED, "new/dir/file", "a", "a/.."]:
        for function in (files.open_file, files.append, files.replace):
            try:
                found = function(path, *([b"x", True] if function != files.open_file else []))
            except ToolFailure:
                continue
            if found is not None:
                found.close()
    files.remove("new", recursive=True)
    assert len(os.listdir("/proc/self/fd")) == before
