"""Layers of someone else's archives, laid together without touching the file system."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.image import tree as tree_module
from mas_sandbox.runtimes.microvm.image.tree import Tree
from mas_sandbox.wire.errors import ErrorCode, SandboxError

Entry = tuple[str, bytes | str | None]


def member(name: str, content: bytes | str | None) -> tarfile.TarInfo:
    """Bytes make a file, text a symbolic link, None a directory."""
    info = tarfile.TarInfo(name)
    info.mode = 0o755
    match content:
        case None:
            info.type = tarfile.DIRTYPE
        case str():
            info.type, info.linkname = tarfile.SYMTYPE, content
        case bytes():
            info.size = len(content)
    return info


def archive(*entries: Entry | tarfile.TarInfo) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                packed.addfile(entry)
            else:
                name, content = entry
                data = io.BytesIO(content) if isinstance(content, bytes) else None
                packed.addfile(member(name, content), data)
    file.seek(0)
    return file


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "spool").mkdir()
    return Tree(tmp_path / "spool")


def written(tree: Tree, tmp_path: Path) -> Path:
    tree.write(tmp_path / "out")
    return tmp_path / "out"


def test_later_layers_lie_on_top(tree: Tree, tmp_path: Path) -> None:
    tree.apply(archive(("./etc/a", b"1"), ("etc/b", b"1")), "one")
    tree.apply(archive(("etc", None), ("etc/a", b"2")), "two")
    out = written(tree, tmp_path)
    assert (out / "etc/a").read_bytes() == b"2"
    assert (out / "etc/b").read_bytes() == b"1"


def test_a_whiteout_removes_what_lower_layers_have(tree: Tree, tmp_path: Path) -> None:
    tree.apply(archive(("a/x", b""), ("a/y", b""), ("b/x", b""), ("c", b"")), "one")
    # In either order within its own layer.
    tree.apply(archive(("b/new", b""), ("a/.wh.x", b""), ("b/.wh..wh..opq", b"")), "two")
    tree.apply(archive((".wh.c", b""), (".wh.nothing", b"")), "three")
    out = written(tree, tmp_path)
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*")) == [
        *("a", "a/y", "b", "b/new"),
    ]


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/../out"])
def test_a_path_out_of_the_image_is_refused(tree: Tree, name: str) -> None:
    with pytest.raises(SandboxError, match="leads out of the image") as caught:
        tree.apply(archive((name, b"")), "the archive")
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert caught.value.message.startswith("the archive: ")


def test_links_lead_to_places_in_the_image_only(tree: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree.apply(
        archive(
            ("abs", str(outside)),
            ("abs/file", b"1"),
            ("up", "../../../../usr"),
            ("up/file", b"2"),
            ("usr/loop", "loop"),
            ("deep/er/abs", "/srv"),
            ("deep/er/abs/file", b"3"),
        ),
        "one",
    )
    out = written(tree, tmp_path)
    assert list(outside.iterdir()) == []
    assert (out / str(outside).lstrip("/") / "file").read_bytes() == b"1"
    assert (out / "usr/file").read_bytes() == b"2"
    assert (out / "srv/file").read_bytes() == b"3"
    assert os.readlink(out / "abs") == str(outside)
    with pytest.raises(SandboxError, match="too many links"):
        tree.apply(archive(("usr/loop/file", b"")), "two")


def test_a_merged_usr_stays_merged(tree: Tree, tmp_path: Path) -> None:
    tree.apply(archive(("bin", "usr/bin"), ("usr/bin/a", b"1")), "one")
    tree.apply(archive(("bin/b", b"2")), "two")
    out = written(tree, tmp_path)
    assert (out / "bin").is_symlink()
    assert (out / "usr/bin/b").read_bytes() == b"2"


def test_hard_links_share_one_file(tree: Tree, tmp_path: Path) -> None:
    link = tarfile.TarInfo("b")
    link.type, link.linkname = tarfile.LNKTYPE, "./a"
    tree.apply(archive(("a", b"1"), link), "one")
    out = written(tree, tmp_path)
    assert (out / "a").stat().st_ino == (out / "b").stat().st_ino


@pytest.mark.parametrize("target", ["../../etc/passwd", "/etc/passwd", "nothing", ""])
def test_a_hard_link_to_no_file_of_the_image_is_refused(tree: Tree, target: str) -> None:
    link = tarfile.TarInfo("b")
    link.type, link.linkname = tarfile.LNKTYPE, target
    with pytest.raises(SandboxError):
        tree.apply(archive(link), "one")


def test_devices_and_pipes_are_left_out(tree: Tree) -> None:
    entries = []
    for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo(f"special-{kind!r}")
        info.type = kind
        entries.append(info)
    tree.apply(archive(*entries), "one")
    assert list(tree.walk()) == []


def test_owners_are_kept_beside_and_modes_and_times_on_disk(tree: Tree, tmp_path: Path) -> None:
    info = tarfile.TarInfo("tool")
    info.mode, info.uid, info.gid, info.mtime = 0o6755, 70_000, 7, 1_000_000_000
    tree.apply(archive(info), "one")
    out = written(tree, tmp_path)
    status = (out / "tool").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (os.geteuid(), 0o6755)
    assert status.st_mtime == 1_000_000_000
    node = tree.find("tool")
    assert node is not None
    assert (node.uid, node.gid, node.mode) == (70_000, 7, 0o6755)


def test_what_nobody_may_read_can_still_be_packed(tree: Tree, tmp_path: Path) -> None:
    info = tarfile.TarInfo("shadow")
    info.mode = 0
    tree.apply(archive(info), "one")
    assert stat.S_IMODE((written(tree, tmp_path) / "shadow").stat().st_mode) == 0o600


def test_too_many_bytes_are_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_BYTES", 10)
    with pytest.raises(SandboxError, match="GiB of files"):
        tree.apply(archive(("a", b"123456"), ("b", b"123456")), "one")


def test_too_many_files_are_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree_module, "MAX_ENTRIES", 4)
    with pytest.raises(SandboxError, match="more than 4 files"):
        tree.apply(archive(*((str(number), b"") for number in range(5))), "one")


@pytest.mark.parametrize("name", ["x" * 300, "/".join("d" * 200), "é" * 200])
def test_names_that_no_file_can_have_are_refused(tree: Tree, name: str) -> None:
    with pytest.raises(SandboxError, match=r"no name of a file|nested too deeply"):
        tree.apply(archive((name, b"")), "one")


@pytest.mark.parametrize("data", [b"", b"not a tar archive" * 100, b"\0" * 100])
def test_what_is_no_archive_is_refused(tree: Tree, data: bytes) -> None:
    with pytest.raises(SandboxError, match="no whole tar archive"):
        tree.apply(io.BytesIO(data), "the file")


def test_an_archive_cut_short_is_refused(tree: Tree) -> None:
    whole = archive(("a", b"x" * 10_000)).getvalue()
    with pytest.raises(SandboxError, match="no whole tar archive"):
        tree.apply(io.BytesIO(whole[:5000]), "the file")


def test_a_file_where_a_directory_is_needed_is_refused(tree: Tree) -> None:
    tree.apply(archive(("opt", b"")), "one")
    with pytest.raises(SandboxError, match=r"leads through a file|is no directory"):
        tree.add_directory("opt/mas")


def test_additions_take_the_place_of_what_was_there(tree: Tree, tmp_path: Path) -> None:
    tree.apply(archive(("etc/hosts", "/somewhere"), ("proc/1/x", b"")), "one")
    tree.remove("etc/hosts")
    tree.add_file("etc/hosts", b"here")
    tree.remove("proc")
    tree.add_directory("proc", 0o555)
    tree.add_link("bin", "usr/bin")
    out = written(tree, tmp_path)
    assert (out / "etc/hosts").read_bytes() == b"here"
    assert list((out / "proc").iterdir()) == []
    assert os.readlink(out / "bin") == "usr/bin"
