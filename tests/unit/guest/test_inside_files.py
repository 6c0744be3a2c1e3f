"""sandbox.read, write, stat, list, mkdir, move and remove: typed answers, nothing outside."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doubles.host import Host
from doubles.inside import inside
from mas_sandbox.guest import changes
from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import NAMES, ToolFailure, load

MEGABYTE = 1024 * 1024


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    top = tmp_path / "ws"
    top.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sentinel").write_bytes(b"the sentinel")
    return top


@pytest.fixture
def files(workspace: Path) -> Files:
    return Files([("/workspace", "rw")], str(workspace))


def test_they_are_in_no_manifest_and_say_whether_they_read() -> None:
    inside_names = ["read", "write", "stat", "list", "mkdir", "move", "remove", "watch"]
    inside_names += ["pack", "unpack", "ports", "connect"]
    reading = [name for name in inside_names if load(f"sandbox.{name}").reads_input]
    assert reading == ["write", "unpack", "connect"]
    assert not [name for name in NAMES if name.startswith("sandbox.")]
    assert not any(load(name).reads_input for name in NAMES)


def test_a_real_toolrunner_runs_them_and_tells_the_reason(host: Host, workspace: Path) -> None:
    (workspace / "f").write_bytes(b"content")
    done = host.call("sandbox.read", {"path": "/workspace/f"})
    assert (done.stdout, done.value["size"]) == (b"content", 7)
    failed = host.call("sandbox.read", {"path": "/workspace/none"})
    assert failed.result is not None
    assert (failed.result.code, failed.result.reason) == ("tool_failed", "not_found")
    assert host.hello is not None
    assert host.hello.tools == NAMES
    refused = host.call("read_file", {"path": "/workspace"})
    assert refused.result is not None
    assert refused.result.reason == "is_a_directory"


def test_a_file_is_read_from_an_offset_for_a_length(files: Files, workspace: Path) -> None:
    content = os.urandom(300_000)
    (workspace / "f").write_bytes(content)
    assert inside(files, "sandbox.read", path="f").stdout == content
    part = inside(files, "sandbox.read", path="f", offset=100_000, length=150_000)
    assert part.stdout == content[100_000:250_000]
    assert inside(files, "sandbox.read", path="f", offset=300_001).stdout == b""
    assert inside(files, "sandbox.read", path="f", offset=-1).code == "invalid_request"


def test_a_file_is_written_whole_and_keeps_its_mode(files: Files, workspace: Path) -> None:
    content = os.urandom(3 * MEGABYTE)
    new = inside(files, "sandbox.write", content, path="f")
    assert (workspace / "f").read_bytes() == content
    assert new.value == inside(files, "sandbox.stat", path="/workspace/f").value
    assert (new.value["mode"], new.value["size"]) == (0o644, len(content))
    (workspace / "f").chmod(0o4751)
    assert inside(files, "sandbox.write", b"x", path="f").value["mode"] == 0o751
    assert inside(files, "sandbox.write", b"x", path="f", mode=0o600).value["mode"] == 0o600
    assert os.listdir(workspace) == ["f"]


def test_half_a_file_has_no_name_that_a_killed_writer_could_leave(
    files: Files, workspace: Path
) -> None:
    seen = []

    def pieces() -> Any:
        yield b"half"
        seen.extend(os.listdir(workspace))
        yield b"whole"

    files.write("f", pieces())
    assert seen == []
    assert (workspace / "f").read_bytes() == b"halfwhole"


def test_without_nameless_files_a_failure_still_leaves_nothing(
    files: Files, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "_open_nameless", lambda parent: -1)
    (workspace / "f").write_bytes(b"old")

    def pieces() -> Any:
        yield b"half"
        assert len(os.listdir(workspace)) == 2
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write("f", pieces())
    assert os.listdir(workspace) == ["f"]
    files.write("f", [b"new"])
    assert (workspace / "f").read_bytes() == b"new"


def test_parents_are_made_only_where_asked_for(files: Files, workspace: Path) -> None:
    assert inside(files, "sandbox.write", b"x", path="a/b/f").reason == "not_found"
    assert inside(files, "sandbox.write", b"x", path="a/b/f", parents=True).code == ""
    assert (workspace / "a/b/f").read_bytes() == b"x"


def test_stat_tells_of_a_link_itself(files: Files, workspace: Path) -> None:
    (workspace / "d").mkdir(mode=0o700)
    (workspace / "l").symlink_to("/nowhere")
    os.mkfifo(workspace / "p")
    assert inside(files, "sandbox.stat", path="l").value | {"modified_ms": 0} == {
        "path": "/workspace/l",
        "name": "l",
        "type": "symlink",
        "size": 8,
        "mode": 0o777,
        "modified_ms": 0,
        "target": "/nowhere",
    }
    assert inside(files, "sandbox.stat", path="p").value["type"] == "other"
    for path in ("d", "./d/", "/workspace//d"):
        directory = inside(files, "sandbox.stat", path=path).value
        assert (directory["path"], directory["type"]) == ("/workspace/d", "directory")
        assert directory["mode"] == 0o700
    root = inside(files, "sandbox.stat", path="/workspace").value
    assert (root["name"], root["type"]) == ("workspace", "directory")


def test_list_has_depth_limit_and_paths(files: Files, workspace: Path) -> None:
    (workspace / "a/b").mkdir(parents=True)
    (workspace / "a/b/c").write_bytes(b"123")
    (workspace / "l").symlink_to("a")
    (workspace / os.fsdecode(b"\xff")).write_bytes(b"")

    def listed(**args: object) -> list[str]:
        value = inside(files, "sandbox.list", path="/workspace", **args).value
        return [entry["path"] for entry in value["entries"]]

    assert listed() == ["/workspace/a", "/workspace/l", "/workspace/\\xff"]
    assert listed(depth=3)[:3] == ["/workspace/a", "/workspace/a/b", "/workspace/a/b/c"]
    part = inside(files, "sandbox.list", path=".", depth=9, limit=2).value
    assert (len(part["entries"]), part["truncated"]) == (2, True)
    links = inside(files, "sandbox.list", path="").code, inside(files, "sandbox.list", path="l")
    assert links[0] == "invalid_request"
    assert [entry["name"] for entry in links[1].value["entries"]] == ["b"]


def test_mkdir_says_whether_it_made_it(files: Files, workspace: Path) -> None:
    assert inside(files, "sandbox.mkdir", path="a/b").reason == "not_found"
    made = inside(files, "sandbox.mkdir", path="a/b", parents=True).value
    assert (made["path"], made["type"], made["created"]) == ("/workspace/a/b", "directory", True)
    assert inside(files, "sandbox.mkdir", path="a/b", parents=True).value["created"] is False
    assert inside(files, "sandbox.mkdir", path="a/b/").reason == "exists"
    assert inside(files, "sandbox.mkdir", path="/workspace").reason == "exists"
    (workspace / "f").write_bytes(b"")
    assert inside(files, "sandbox.mkdir", path="f", parents=True).reason == "exists"


@pytest.mark.parametrize("flags", [True, False], ids=["renameat2", "two steps"])
def test_move_overwrites_only_where_asked_for(
    files: Files, workspace: Path, monkeypatch: pytest.MonkeyPatch, flags: bool
) -> None:
    if not flags:
        monkeypatch.setattr(changes, "_RENAME_NOREPLACE", 1 << 30)  # EINVAL
    (workspace / "a").write_bytes(b"a")
    (workspace / "b").write_bytes(b"b")
    (workspace / "d/e").mkdir(parents=True)
    assert inside(files, "sandbox.move", source="a", destination="b").reason == "exists"
    assert (workspace / "b").read_bytes() == b"b"
    moved = inside(files, "sandbox.move", source="a", destination="d/c")
    assert (moved.value["path"], moved.value["size"]) == ("/workspace/d/c", 1)
    over = inside(files, "sandbox.move", source="d/c", destination="b", overwrite=True)
    assert over.code == ""
    assert (workspace / "b").read_bytes() == b"a"
    assert inside(files, "sandbox.move", source="none", destination="c").reason == "not_found"


def test_move_refuses_what_makes_no_sense(files: Files, workspace: Path) -> None:
    (workspace / "d/e").mkdir(parents=True)
    (workspace / "full/x").mkdir(parents=True)
    (workspace / "f").write_bytes(b"")

    def reason(source: str, destination: str) -> tuple[str, str]:
        ran = inside(files, "sandbox.move", source=source, destination=destination, overwrite=True)
        return ran.code, ran.reason

    assert reason("d", "d/e/x") == ("invalid_request", "")
    assert reason("d", "full") == ("tool_failed", "not_empty")
    assert reason("f", "d") == ("tool_failed", "is_a_directory")
    assert reason("d", "f") == ("tool_failed", "not_a_directory")
    assert reason("/workspace", "x") == ("invalid_request", "")
    assert reason("f", "/etc/x") == ("invalid_request", "permission")


def test_move_and_remove_keep_off_what_is_read_only(tmp_path: Path, workspace: Path) -> None:
    (workspace / "ro/sub").mkdir(parents=True)
    (workspace / "x").write_bytes(b"x")
    files = Files([("/workspace", "rw"), ("/workspace/ro", "ro")], str(workspace))
    tries = [("x", "ro/x"), ("ro/sub", "sub"), ("ro", "away"), ("x", "ro")]
    for source, destination in tries:
        ran = inside(files, "sandbox.move", source=source, destination=destination, overwrite=True)
        assert ran.code == "invalid_request", (source, destination)
    assert inside(files, "sandbox.remove", path="ro", recursive=True).code == "invalid_request"
    assert inside(files, "sandbox.mkdir", path="ro/new").reason == "permission"
    assert sorted(os.listdir(workspace)) == ["ro", "x"]
    assert os.listdir(workspace / "ro") == ["sub"]


def test_a_granted_path_cannot_be_moved_with_what_holds_it(workspace: Path) -> None:
    (workspace / "a/kept").mkdir(parents=True)
    (workspace / "b").mkdir()
    for mode in ("ro", "rw"):
        files = Files([("/workspace", "rw"), ("/workspace/a/kept", mode)], str(workspace))
        assert inside(files, "sandbox.move", source="a", destination="c").code == "invalid_request"
        over = inside(files, "sandbox.move", source="b", destination="a", overwrite=True)
        assert over.code == "invalid_request"
    assert (workspace / "a/kept").is_dir()


def test_remove_wants_recursive_for_a_full_directory(files: Files, workspace: Path) -> None:
    (workspace / "d/e").mkdir(parents=True)
    (workspace / "l").symlink_to("d")
    assert inside(files, "sandbox.remove", path="l").value == {"path": "/workspace/l"}
    assert inside(files, "sandbox.remove", path="d").reason == "not_empty"
    assert inside(files, "sandbox.remove", path="d", recursive=True).code == ""
    assert inside(files, "sandbox.remove", path="d").reason == "not_found"


def outside_attempts(path: str) -> list[tuple[str, dict[str, object]]]:
    return [
        ("sandbox.read", {"path": path}),
        ("sandbox.write", {"path": path}),
        ("sandbox.list", {"path": path}),
        ("sandbox.mkdir", {"path": f"{path}/new"}),
        ("sandbox.move", {"source": path, "destination": "taken"}),
        ("sandbox.move", {"source": "mine", "destination": path, "overwrite": True}),
        ("sandbox.remove", {"path": path}),
        ("sandbox.stat", {"path": path}),
        ("sandbox.pack", {"path": path}),
        ("sandbox.unpack", {"path": path}),
        ("sandbox.watch", {"path": path}),
    ]


@pytest.mark.parametrize("path", ["../outside/sentinel", "out/sentinel", "chain/sentinel"])
def test_nothing_leads_outside(files: Files, workspace: Path, path: str) -> None:
    (workspace / "mine").write_bytes(b"mine")
    (workspace / "out").symlink_to("../outside")
    (workspace / "chain").symlink_to("out")
    for name, args in outside_attempts(path):
        ran = inside(files, name, b"overwritten", **args)
        assert (ran.code, ran.reason) == ("invalid_request", "permission"), (name, ran)
        assert b"sentinel" not in ran.stdout
    outside = workspace.parent / "outside"
    assert [file.read_bytes() for file in outside.iterdir()] == [b"the sentinel"]


def test_a_fifo_is_neither_waited_for_nor_read(files: Files, workspace: Path) -> None:
    os.mkfifo(workspace / "p")
    for name in ("sandbox.read", "sandbox.write", "sandbox.pack"):
        assert inside(files, name, b"x", path="p").code == "tool_failed"
    assert stat.S_ISFIFO((workspace / "p").stat().st_mode)


def test_a_directory_that_becomes_a_link_never_lets_a_write_out(
    files: Files, workspace: Path
) -> None:
    outside = workspace.parent / "outside"
    (workspace / "d").mkdir()
    (workspace / "l").symlink_to("../outside")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for pair in (("d", "x"), ("l", "d"), ("d", "l"), ("x", "d")):
                os.rename(workspace / pair[0], workspace / pair[1])

    swapping = threading.Thread(target=swap)
    swapping.start()
    codes: set[str] = set()
    wanted = {"", "invalid_request", "tool_failed"}
    until = time.monotonic() + 20
    tries = 0
    try:
        while tries < 400 or not (codes >= wanted or time.monotonic() > until):
            tries += 1
            codes.add(_code(lambda: files.write("d/f", [b"x"])))
            codes.add(_code(lambda: files.move("d/f", "d/g", overwrite=True)))
            codes.add(_code(lambda: files.remove("d/g")))
    finally:
        stop.set()
        swapping.join()
    assert codes == wanted
    assert os.listdir(outside) == ["sentinel"]


def _code(change: Callable[[], object]) -> str:
    try:
        change()
    except ToolFailure as failure:
        return failure.code
    return ""


def test_a_file_at_its_size_limit_is_too_large(host: Host) -> None:
    done = host.call("write_file", {"path": "f", "content": "x" * 5000}, fsize_bytes=4096)
    assert done.result is not None
    assert done.result.reason == "too_large"
