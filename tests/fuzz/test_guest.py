"""Paths and archives: whatever they say, nothing outside the root is reached."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example
from hypothesis import strategies as st

from fuzz.engine import PLACES, cuts, fuzz, inputs
from mas_sandbox.guest.beneath import openat2, walk
from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.inside import tar, unpack
from mas_sandbox.guest.tools.inside.source import Source

MOST_ENTRIES, MOST_BYTES = 30, 100_000


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A root full of links, and a file outside that they aim at."""
    top = tmp_path_factory.mktemp("tree")
    (top / "outside").write_text("secret")
    root = top / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "f").write_text("f")
    (root / "g").write_text("g")
    for name, target in {
        "out": "../outside", "abs": str(top / "outside"), "up": "..", "loop": "loop", "in": "a/b", "a/back": "../g",
        "a/b/far": "../../../outside", "a/b/root": "../..", "proc": "/proc/self/root", "slash": "a/", "none": "missing", "a/b/long": "../b/../b/../../a/f",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


PARTS = ["a", "b", "f", "g", "out", "abs", "up", "loop", "in", "back", "far", "root", "proc", "slash", "none", "long", "..", ".", "", "outside"]  # fmt: skip
PATHS = st.lists(st.sampled_from(PARTS), min_size=1, max_size=8).map("/".join) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)


def opened(opener: object, root: int, path: str, symlinks: bool) -> tuple[int, int] | None:
    try:
        descriptor = opener(root, path, os.O_RDONLY | os.O_NONBLOCK, symlinks=symlinks)  # type: ignore[operator]
    except (OSError, ValueError) as error:
        assert isinstance(error, OSError) or "null byte" in str(error)
        return None
    try:
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino
    finally:
        os.close(descriptor)


@fuzz(400, path=PATHS, symlinks=st.booleans())
@example(path="slash/back", symlinks=True)
def test_both_openers_reach_the_same_and_nothing_outside(
    tree: int, path: str, symlinks: bool
) -> None:
    found = opened(walk, tree, path, symlinks)
    assert found == opened(openat2, tree, path.replace("\0", ""), symlinks) or "\0" in path
    inside = {
        (s.st_dev, s.st_ino)
        for s in (os.stat(top, dir_fd=tree) for top in (".", "a", "a/b", "a/f", "g"))
    }
    assert found is None or found in inside


NAME = st.lists(
    st.sampled_from(["a", "b", "l", "..", ".", "", "x" * 120, "é", "\udcff"]),
    min_size=1,
    max_size=4,
).map("/".join)
TARGET = st.one_of(
    NAME, st.sampled_from(["../../outside/new", "/etc/passwd", "..", "a/../..", "", "../a"])
)
KIND = st.sampled_from([b"0", b"0", b"1", b"2", b"5", b"3", b"6", b"7", b"\0", b"S", b"Z"])
MEMBER = st.builds(
    lambda kind, name, target, mode, data, size: (
        tar.Member(kind, os.fsencode(name), target=os.fsencode(target), mode=mode, size=len(data) if size is None else size, mtime=1),
        data,
    ),
    KIND,
    NAME,
    TARGET,
    st.integers(0, 0o7777),
    st.binary(max_size=40),
    st.none() | st.sampled_from([0, 5, 10**6, 2**40]),
)  # fmt: skip


def archive(members: list[tuple[tar.Member, bytes]]) -> bytes:
    parts = []
    for member, data in members:
        parts += [tar.encode(member), data, bytes(tar.padding(len(data)))]
    return b"".join(parts) + bytes(1024)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Path]:
    """Where archives are unpacked, one directory each; the standard input is put back."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sentinel").write_bytes(b"sentinel")
    kept = os.dup(0)
    yield tmp_path
    os.dup2(kept, 0)
    os.close(kept)


def unpacked(ground: Path, data: bytes) -> tuple[Path, dict[str, int] | None]:
    """Unpack into a fresh directory that lies beside `outside`, and hold what came of it to
    account."""
    work = Path(tempfile.mkdtemp(dir=ground))
    (work / "in").mkdir()
    (work / "in" / "evil").symlink_to("../../outside")
    with tempfile.TemporaryFile() as given:
        given.write(data)
        given.seek(0)
        os.dup2(given.fileno(), 0)
    files = Files([("/workspace", "rw")], str(work))
    args = {"path": "/workspace/in", "max_entries": MOST_ENTRIES, "max_bytes": MOST_BYTES}
    try:
        told = unpack.unpack(args, files)
    except ToolFailure:
        told = None
    _nothing_outside(ground, work)
    return work / "in", told


def _nothing_outside(ground: Path, work: Path) -> None:
    assert os.listdir(ground / "outside") == ["sentinel"]
    assert (ground / "outside" / "sentinel").read_bytes() == b"sentinel"
    assert (ground / "outside" / "sentinel").stat().st_nlink == 1
    assert os.listdir(work) == ["in"]
    root = os.fsencode(os.path.realpath(work / "in"))
    count = size = 0
    for where, directories, names in os.walk(os.fsencode(work / "in")):
        for name in directories + names:
            path = os.path.join(where, name)
            status = os.lstat(path)
            count += 1
            if stat.S_ISLNK(status.st_mode):
                leads = os.path.realpath(path)
                assert (leads + b"/").startswith(root + b"/") or name == b"evil"
                continue
            assert stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
            assert not status.st_mode & 0o7000
            size += status.st_size if stat.S_ISREG(status.st_mode) else 0
    assert count <= MOST_ENTRIES * 6 + 1  # with the directories above each
    assert size <= MOST_BYTES * MOST_ENTRIES


@fuzz(150, members=st.lists(MEMBER, min_size=1, max_size=6))
def test_no_archive_reaches_outside(ground: Path, members: list[tuple[tar.Member, bytes]]) -> None:
    unpacked(ground, archive(members))


@fuzz(200, data=inputs("tar"))
def test_what_is_no_archive_is_refused_in_words(ground: Path, data: bytes) -> None:
    unpacked(ground, data)


PLAIN = st.lists(
    st.tuples(st.text("abé/", min_size=1, max_size=150).filter(lambda n: n.strip("/") == n), st.binary(max_size=600)),
    max_size=4,
    unique_by=lambda item: item[0],
)  # fmt: skip


@fuzz(
    60,
    items=PLAIN,
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    places=PLACES,
)
def test_members_are_those_that_tarfile_wrote(
    items: list[tuple[str, bytes]], form: int, places: list[int]
) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as writer:
        for name, data in items:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            writer.addfile(info, io.BytesIO(data))
    pieces = cuts(made.getvalue(), places)
    source = Source(lambda: pieces.pop(0) if pieces else b"")
    found = []
    while (member := tar.decode(source.take)) is not None:
        found.append((member.name.decode(), source.take(member.size)))
        source.take(tar.padding(member.size))
    assert found == items
