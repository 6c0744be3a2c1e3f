"""The zipapp: built once per content, the same for everyone, and it runs."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mas_sandbox.runtimes import toolrunner
from mas_sandbox.runtimes.toolrunner import toolrunner_archive


def test_it_runs_with_nothing_but_the_standard_library(tmp_path: Path) -> None:
    archive = toolrunner_archive(tmp_path)
    shown = subprocess.run(
        [sys.executable, "-I", "-S", archive, "--help"], capture_output=True, text=True, env={}
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("mas-toolrunner")


def test_it_holds_three_rooms_and_their_bytecode(tmp_path: Path) -> None:
    names = zipfile.ZipFile(toolrunner_archive(tmp_path)).namelist()
    assert {name.split("/")[1] for name in names if "/" in name} == {
        "__init__.py",
        "__init__.pyc",
        "guest",
        "tools",
        "wire",
    }
    sources = [name for name in names if name.endswith(".py")]
    assert sorted(names) == sorted([*sources, *(f"{name}c" for name in sources)])


def test_the_bytecode_is_what_is_loaded(tmp_path: Path) -> None:
    archive = toolrunner_archive(tmp_path)
    program = f"import sys; sys.path.append({str(archive)!r}); from mas_sandbox.guest import loop"
    shown = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"{program}; print(loop.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == f"{archive}/mas_sandbox/guest/loop.pyc\n"


def test_it_is_built_once(tmp_path: Path) -> None:
    first = toolrunner_archive(tmp_path)
    written = first.stat()
    assert toolrunner_archive(tmp_path) == first
    assert first.stat().st_ino == written.st_ino
    assert [entry.name for entry in tmp_path.iterdir()] == [first.name]
    assert stat.S_IMODE(written.st_mode) == 0o644
    begun = time.process_time()
    for _ in range(10):
        toolrunner_archive(tmp_path)
    assert (time.process_time() - begun) / 10 < 0.02


def test_two_builders_make_the_same_content(tmp_path: Path) -> None:
    one, two = toolrunner_archive(tmp_path / "a"), toolrunner_archive(tmp_path / "b")
    assert one.name == two.name
    with zipfile.ZipFile(one) as first, zipfile.ZipFile(two) as second:
        assert [info.filename for info in first.infolist()] == second.namelist()
        for info in first.infolist():
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            if info.filename.endswith(".py"):
                assert first.read(info) == second.read(info.filename)


def test_builders_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        archives = set(threads.map(lambda _: toolrunner_archive(tmp_path), range(4)))
    assert list(tmp_path.iterdir()) == list(archives)
    assert zipfile.ZipFile(archives.pop()).testzip() is None


def test_changed_sources_make_another_file(tmp_path: Path) -> None:
    sources = toolrunner._sources()
    changed = sources | {"mas_sandbox/__init__.py": b"# changed\n"}
    assert toolrunner._digest(sources) != toolrunner._digest(changed)


def test_a_few_of_other_versions_stay(tmp_path: Path) -> None:
    others = [tmp_path / f"toolrunner-{number}.pyz" for number in range(6)]
    for built, other in enumerate(others):
        other.touch()
        os.utime(other, (built, built))
    made = toolrunner_archive(tmp_path)
    assert set(tmp_path.iterdir()) == {made, *others[-3:]}


@pytest.mark.parametrize("plant", ["link", "writable", "directory"])
def test_what_someone_else_could_have_written_is_not_used(tmp_path: Path, plant: str) -> None:
    archive = toolrunner_archive(tmp_path / "good")
    planted = tmp_path / "cache" / archive.name
    planted.parent.mkdir()
    target = tmp_path / "target"
    target.write_text("evil")
    match plant:
        case "link":
            planted.symlink_to(target)
        case "writable":
            planted.write_text("evil")
            planted.chmod(0o666)
        case _:
            planted.mkdir()
            with pytest.raises(OSError, match="directory"):
                toolrunner_archive(tmp_path / "cache")
            return
    rebuilt = toolrunner_archive(tmp_path / "cache")
    assert not rebuilt.is_symlink()
    assert zipfile.ZipFile(rebuilt).testzip() is None
    assert target.read_text() == "evil"


def test_the_default_cache_is_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert toolrunner_archive().parent == tmp_path / "mas-sandbox"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert toolrunner_archive().parent == tmp_path / ".cache" / "mas-sandbox"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["-fd", "0"],
        ["-fd", "x", "-workspace", "/"],
        ["-fd"],
        ["--nope"],
        ["-fd=999", "-workspace=/"],
    ],
)
def test_wrong_usage_is_told_in_one_line(tmp_path: Path, arguments: list[str]) -> None:
    shown = subprocess.run(
        [sys.executable, "-I", "-S", toolrunner_archive(tmp_path), *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=os.fspath(tmp_path),
    )
    assert shown.returncode == 64
    assert shown.stderr.startswith("mas-toolrunner: ")
    assert shown.stderr.count("\n") == 1
