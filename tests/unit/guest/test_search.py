"""glob and grep: what they find, and where they stop."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure, load, search, tree
from mas_sandbox.wire import strict_json

Run = Callable[..., Any]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    workspace = tmp_path / "ws"
    workspace.mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.py").write_text("needle outside\n")
    for name, content in {
        "a.py": "first\nneedle one\nlast\n",
        "src/b.py": "Needle two\n",
        "src/deep/c.ts": "no such thing\nneedle three",
        "src/.hidden/d.py": "needle hidden\n",
        ".env": "needle env\n",
        "binary": "needle\0",
    }.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (workspace / "out").symlink_to(outside)
    (workspace / "out.py").symlink_to(outside / "secret.py")
    (workspace / "self").symlink_to(".")
    os.mkfifo(workspace / "pipe.py")
    files = Files([("/workspace", "rw")], str(workspace))

    def run(tool: str, **args: object) -> Any:
        value = load(tool).run(args, files)
        return strict_json.loads(strict_json.dumps(value))

    return run


def failure(run: Run, tool: str, **args: object) -> ToolFailure:
    with pytest.raises(ToolFailure) as caught:
        run(tool, **args)
    return caught.value


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("*.py", ["a.py", "out.py", "pipe.py"]),
        ("**/*.py", ["a.py", "out.py", "pipe.py", "src/b.py"]),
        ("src/*", ["src/b.py", "src/deep"]),
        ("src/**", ["src/b.py", "src/deep", "src/deep/c.ts"]),
        ("**/deep/**/*.ts", ["src/deep/c.ts"]),
        ("**/**/c.ts", ["src/deep/c.ts"]),
        ("./src//b.py", ["src/b.py"]),
        ("src/[ab].p?", ["src/b.py"]),
        ("*/*.{py,ts}", ["src/b.py"]),
        ("{a,src/b}.py", ["a.py", "src/b.py"]),
        (".e*", [".env"]),
        ("**/.hidden/*", ["src/.hidden/d.py"]),
        ("*.PY", []),
        ("out/*", []),
        ("self/*", []),
    ],
)
def test_glob_finds_what_a_shell_would_and_follows_no_link(
    run: Run, pattern: str, paths: list[str]
) -> None:
    assert run("glob", pattern=pattern) == {"paths": paths, "truncated": False}


def test_glob_paths_are_ready_for_the_next_call(run: Run) -> None:
    assert run("glob", pattern="*.py", path="src")["paths"] == ["src/b.py"]
    assert run("glob", pattern="*.py", path="/workspace/src/")["paths"] == ["/workspace/src/b.py"]


@pytest.mark.parametrize(
    "pattern", ["", "/etc/*", "../*", "a/../b", "**/..", ".", "*" * 1001, "{a,b}" * 30, 1]
)
def test_glob_refuses_a_pattern_that_leads_elsewhere_or_nowhere(run: Run, pattern: object) -> None:
    assert failure(run, "glob", pattern=pattern).code == "invalid_request"


def test_glob_is_capped_and_says_so(run: Run, tmp_path: Path) -> None:
    many = tmp_path / "ws" / "many"
    many.mkdir()
    for number in range(search.MAX_PATHS + 1):
        (many / str(number)).touch()
    result = run("glob", pattern="many/*")
    assert len(result["paths"]) == search.MAX_PATHS
    assert result["truncated"] is True


def test_walking_ends_at_its_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = Files([("/workspace", "rw")], str(tmp_path))
    files.replace("d/" * (tree.MAX_DEPTH + 5) + "file", b"", create_dirs=True)
    too_deep = load("glob").run({"pattern": "**/file"}, files)
    assert too_deep == {"paths": [], "truncated": True}
    monkeypatch.setattr(tree, "MAX_SEEN", 10)
    assert load("glob").run({"pattern": "**"}, files)["truncated"] is True
    monkeypatch.setattr(tree, "MAX_SEEN", 1000)
    monkeypatch.setattr(tree, "MAX_SECONDS", -1.0)
    assert load("glob").run({"pattern": "**"}, files) == {"paths": [], "truncated": True}


def test_a_pattern_of_many_stars_is_matched_in_time(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ws" / ("a" * 200)).touch()
    assert run("glob", pattern="*a" * 100 + "*b")["paths"] == []


def test_grep_finds_lines_beneath_and_follows_no_link(run: Run) -> None:
    assert run("grep", pattern="needle") == {
        "matches": [
            {"path": "a.py", "line": 2, "text": "needle one"},
            {"path": "src/deep/c.ts", "line": 2, "text": "needle three"},
        ],
        "files_searched": 3,
        "files_skipped": 1,
        "truncated": False,
    }


def found(result: Any) -> list[str]:
    return [match["path"] for match in result["matches"]]


def test_grep_takes_its_options(run: Run) -> None:
    assert found(run("grep", pattern="NEEDLE", ignore_case=True, glob="*.py")) == [
        "a.py",
        "src/b.py",
    ]
    assert found(run("grep", pattern="needle", glob="src/**/*.ts")) == ["src/deep/c.ts"]
    assert found(run("grep", pattern="needle", glob=".env")) == [".env"]
    assert found(run("grep", pattern="needle .", path="/workspace/src")) == [
        "/workspace/src/deep/c.ts"
    ]
    assert found(run("grep", pattern="needle .", fixed=True)) == []
    assert found(run("grep", pattern="^n", path="a.py")) == ["a.py"]
    context = run("grep", pattern="needle", path="a.py", context=5)["matches"][0]
    assert (context["before"], context["after"]) == (["first"], ["last"])


def test_grep_stops_at_its_bounds(run: Run, tmp_path: Path) -> None:
    big = tmp_path / "ws" / "big"
    big.write_text("needle\n" * 3000)
    limited = run("grep", pattern="needle", path="big", max_matches=7)
    assert len(limited["matches"]) == 7 and limited["truncated"]
    assert not run("grep", pattern="needle three", max_matches=1)["truncated"]
    big.write_text(("needle" + "x" * 5000 + "\n") * 1000)
    wide = run("grep", pattern="needle", path="big", max_matches=1000)
    assert wide["truncated"]
    assert all(len(match["text"]) <= search.MAX_LINE + 3 for match in wide["matches"])
    assert sum(len(match["text"]) for match in wide["matches"]) < search.MAX_TEXT * 1.1


def test_grep_skips_what_is_too_large_to_search(run: Run, tmp_path: Path) -> None:
    with (tmp_path / "ws" / "huge").open("wb") as huge:
        huge.write(b"needle\n" * 2000)
        huge.truncate(1 << 40)
    result = run("grep", pattern="needle", path="huge")
    assert (result["files_searched"], result["files_skipped"]) == (0, 1)


@pytest.mark.parametrize(
    "args",
    [
        {"pattern": "("},
        {"pattern": ""},
        {"pattern": "x" * 1001},
        {"pattern": "x", "glob": "../*"},
        {"pattern": "x", "path": "../outside"},
        {"pattern": "x", "path": "out.py"},
        {"pattern": "x", "context": 11},
        {"pattern": "x", "max_matches": 0},
        {"pattern": "x", "recursive": True},
    ],
)
def test_grep_refuses_arguments_that_do_not_fit(run: Run, args: dict[str, object]) -> None:
    assert failure(run, "grep", **args).code == "invalid_request"


def test_grep_names_a_file_that_is_not_there(run: Run) -> None:
    assert failure(run, "grep", pattern="x", path="missing").message == (
        "'missing': No such file or directory"
    )
