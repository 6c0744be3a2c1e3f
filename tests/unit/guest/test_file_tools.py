"""file_system, read_file, write_file, edit_file and list_dir, each as the guest runs it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure, load
from mas_sandbox.guest.tools.reading import MAX_SHOWN, MAX_WHOLE
from mas_sandbox.wire import strict_json

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    files = Files([("/workspace", "rw")], str(tmp_path))

    def run(tool: str, **args: object) -> Any:
        value = load(tool).run(args, files)
        return strict_json.loads(strict_json.dumps(value), max_bytes=MAX_WHOLE * 2)

    return run


def failure(run: Run, tool: str, **args: object) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        run(tool, **args)
    return caught.value


# file_system


def test_file_system_writes_appends_reads_lists_and_deletes(run: Run, tmp_path: Path) -> None:
    wrote = run("file_system", action="write", path="a/b.txt", content="één\n")
    assert wrote == {"path": "a/b.txt", "bytes_written": 6}
    run("file_system", action="write", path="a/b.txt", content="two\n", append=True)
    assert run("file_system", action="read", path="/workspace/a/b.txt") == "één\ntwo\n"
    (tmp_path / "link").symlink_to("a")
    flat = run("file_system", action="list", path=".")
    assert [(entry["name"], entry["type"]) for entry in flat["entries"]] == [
        ("a", "directory"),
        ("link", "symlink"),
    ]
    deep = run("file_system", action="list", path=".", recursive=True)
    assert [entry["name"] for entry in deep["entries"]] == ["a", "a/b.txt", "link"]
    assert deep["entries"][1]["size"] == 10
    assert deep["truncated"] is False
    assert "recursive" in failure(run, "file_system", action="delete", path="a").message
    assert run("file_system", action="delete", path="a", recursive=True) == {"deleted": "a"}
    assert os.listdir(tmp_path) == ["link"]


def test_file_system_takes_the_arguments_an_action_does_not_need(run: Run) -> None:
    run("file_system", action="write", path="f", content="x", append=False, recursive=False)
    assert run("file_system", action="read", path="f", content="", append=False) == "x"


def test_file_system_reads_no_binary_and_nothing_endless(run: Run, tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\x7fELF\0")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 40)
    assert "binary" in failure(run, "file_system", action="read", path="binary").message
    refusal = failure(run, "file_system", action="read", path="sparse")
    assert str(MAX_WHOLE) in refusal.message


@pytest.mark.parametrize(
    "args",
    [
        {"action": "write", "path": "f"},
        {"action": "write", "path": "f", "content": 1},
        {"action": "write", "path": "f", "content": "lone \udc80"},
        {"action": "write", "path": "f", "content": "x", "append": "yes"},
        {"action": "move", "path": "f"},
        {"action": "read"},
        {"path": "f"},
        {"action": "read", "path": 3},
        {"action": "read", "path": "f", "mode": "r"},
        {"action": "delete", "path": ".", "recursive": True},
    ],
)
def test_file_system_refuses_arguments_that_do_not_fit(
    run: Run, tmp_path: Path, args: dict[str, object]
) -> None:
    assert failure(run, "file_system", **args).code == "invalid_request"
    assert os.listdir(tmp_path) == []


# read_file


def test_read_file_returns_everything_or_a_range_of_lines(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"one\ntwo\r\nthree\nfour")
    assert run("read_file", path="f") == {
        "content": "one\ntwo\r\nthree\nfour",
        "start_line": 1,
        "end_line": 4,
        "total_lines": 4,
        "truncated": False,
    }
    middle = run("read_file", path="f", start_line=2, end_line=3)
    assert (middle["content"], middle["end_line"], middle["total_lines"]) == (
        "two\r\nthree\n",
        3,
        4,
    )
    assert run("read_file", path="f", start_line=4, end_line=99)["content"] == "four"
    assert "has 4 lines" in failure(run, "read_file", path="f", start_line=5).message


def test_read_file_of_an_empty_file_is_empty(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    empty = run("read_file", path="empty")
    assert (empty["content"], empty["end_line"], empty["total_lines"]) == ("", 0, 0)


def test_read_file_is_cut_at_a_whole_line_and_can_be_read_on(run: Run, tmp_path: Path) -> None:
    text = "".join(f"{number:06} é {'x' * 90}\n" for number in range(6000))
    (tmp_path / "f").write_text(text, encoding="utf-8")
    pieces = []
    start = 1
    while True:
        part = run("read_file", path="f", start_line=start)
        assert len(part["content"].encode()) <= MAX_SHOWN
        assert part["total_lines"] == 6000
        pieces.append(part["content"])
        start = part["end_line"] + 1
        if not part["truncated"]:
            break
    assert len(pieces) > 1
    assert "".join(pieces) == text


def test_read_file_cuts_a_single_endless_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("€" * 500_000, encoding="utf-8")
    part = run("read_file", path="f")
    assert part["truncated"] and part["total_lines"] == 1 and part["end_line"] == 1
    assert set(part["content"]) == {"€"}
    assert "invalid_utf8" not in part


def test_read_file_reaches_lines_of_a_large_file(run: Run, tmp_path: Path) -> None:
    line = b"x" * 1023 + b"\n"
    (tmp_path / "f").write_bytes(line * 11 * 1024)
    assert "start_line and end_line" in failure(run, "read_file", path="f").message
    part = run("read_file", path="f", start_line=11_000, end_line=11_001)
    assert part["content"].encode() == line * 2
    assert part["total_lines"] is None


def test_read_file_notes_invalid_utf8_and_refuses_binary(run: Run, tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"caf\xe9\n")
    part = run("read_file", path="latin")
    assert (part["content"], part["invalid_utf8"]) == ("caf\ufffd\n", True)
    (tmp_path / "real").write_text("a real \ufffd", encoding="utf-8")
    assert "invalid_utf8" not in run("read_file", path="real")
    with (tmp_path / "sparse").open("wb") as sparse:
        sparse.truncate(1 << 43)
    refusal = failure(run, "read_file", path="sparse", start_line=2, end_line=3)
    assert "binary" in refusal.message


@pytest.mark.parametrize(
    "args",
    [
        {"path": "f", "start_line": 0},
        {"path": "f", "start_line": -1},
        {"path": "f", "start_line": 3, "end_line": 2},
        {"path": "f", "start_line": "1"},
        {"path": "f", "start_line": True},
        {"path": "f", "start_line": 1.0},
        {"path": "f", "lines": 2},
        {},
    ],
)
def test_read_file_refuses_arguments_that_do_not_fit(
    run: Run, tmp_path: Path, args: dict[str, object]
) -> None:
    (tmp_path / "f").write_text("x\n" * 5)
    assert failure(run, "read_file", **args).code == "invalid_request"


# write_file, edit_file


def test_write_file_makes_directories_unless_told_not_to(run: Run, tmp_path: Path) -> None:
    assert run("write_file", path="a/b/c", content="é") == {"path": "a/b/c", "bytes_written": 2}
    refusal = failure(run, "write_file", path="x/y", content="", create_dirs=False)
    assert refusal.message == "'x/y': No such file or directory"
    assert (tmp_path / "a" / "b" / "c").read_text("utf-8") == "é"
    assert not (tmp_path / "x").exists()


def test_edit_file_replaces_exactly_one_occurrence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"one two\r\ntwo \xff three\r\n")
    file.chmod(0o755)
    ambiguous = failure(run, "edit_file", path="f", old_text="two", new_text="2")
    assert "2 times" in ambiguous.message
    edited = run("edit_file", path="f", old_text="one two", new_text="1")
    assert edited == {"path": "f", "replacements": 1}
    edited = run("edit_file", path="f", old_text="t", new_text="T", replace_all=True)
    assert edited["replacements"] == 2
    assert file.read_bytes() == b"1\r\nTwo \xff Three\r\n"
    assert file.stat().st_mode & 0o777 == 0o755


def test_edit_file_says_why_nothing_matched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a\r\nb\r\n")
    missing = failure(run, "edit_file", path="f", old_text="c", new_text="d")
    assert missing.code == "tool_failed" and "does not occur" in missing.message
    assert r"\r\n" in failure(run, "edit_file", path="f", old_text="a\nb", new_text="").message
    for args in ({"old_text": ""}, {"old_text": "a", "new_text": "a"}):
        refusal = failure(run, "edit_file", **({"path": "f", "new_text": "x"} | args))
        assert refusal.code == "invalid_request"
    assert (tmp_path / "f").read_bytes() == b"a\r\nb\r\n"


# list_dir


def test_list_dir_describes_every_kind_of_entry(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dir" / "inner").mkdir(parents=True)
    (tmp_path / "dir" / "inner" / "deep").touch()
    (tmp_path / "file").write_bytes(b"12345")
    os.utime(tmp_path / "file", (1_000_000, 1_000_000))
    (tmp_path / "link").symlink_to("/etc")
    os.mkfifo(tmp_path / "pipe")
    listing = run("list_dir")
    kinds = {entry["name"]: entry["type"] for entry in listing["entries"]}
    assert kinds == {"dir": "directory", "file": "file", "link": "symlink", "pipe": "other"}
    file = listing["entries"][1]
    assert file == {"name": "file", "type": "file", "size": 5, "mtime": 1_000_000}
    deeper = [entry["name"] for entry in run("list_dir", path="dir", depth=2)["entries"]]
    assert deeper == ["inner", "inner/deep"]
    assert "Not a directory" in failure(run, "list_dir", path="file").message
    assert failure(run, "list_dir", depth=0).code == "invalid_request"


def test_list_dir_is_capped_and_says_so(run: Run, tmp_path: Path) -> None:
    for number in range(1001):
        (tmp_path / f"{number:04}").touch()
    listing = run("list_dir")
    assert len(listing["entries"]) == 1000
    assert listing["truncated"] is True


def test_a_hostile_file_name_is_still_json(run: Run, tmp_path: Path) -> None:
    for name in (b"\xff\xfe", b"new\nline", b"\x1b[31m"):
        (tmp_path / os.fsdecode(name)).touch()
    names = [entry["name"] for entry in run("list_dir")["entries"]]
    assert names == ["\x1b[31m", "new\nline", r"\xff\xfe"]
    assert r"\xff\xfe" in run("glob", pattern="*")["paths"]
