"""Both ways to open beneath a root: each path leads to the same file, or to the same error."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mas_sandbox.guest import beneath

if TYPE_CHECKING:
    from mas_sandbox.guest.beneath import Opener


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    top = tmp_path / "ws"
    (top / "dir" / "inner").mkdir(parents=True)
    (top / "file.txt").write_text("file")
    (top / "dir" / "inner" / "deep.txt").write_text("deep")
    (tmp_path / "secret.txt").write_text("secret")
    for name, target in {
        "to_file": "file.txt",
        "to_dir": "dir",
        "to_dir_slash": "dir/",
        "chain": "to_dir/../to_file",
        "dir/up": "../file.txt",
        "to_outside": "../secret.txt",
        "to_outside_dir": "..",
        "dir/up_and_out": "../../secret.txt",
        "absolute": str(tmp_path / "secret.txt"),
        "absolute_inside": str(top / "file.txt"),
        "dangling": "nowhere",
        "dangling_outside": "../nowhere",
        "loop": "loop",
        "around": "../ws/file.txt",
    }.items():
        (top / name).symlink_to(target)
    descriptor = os.open(top, beneath.DIRECTORY)
    yield descriptor
    os.close(descriptor)


def outcome(opener: Opener, root: int, path: str, flags: int, **more: bool) -> str:
    """The content, or the name of the error."""
    try:
        descriptor = opener(root, path, flags, **more)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    try:
        return "directory" if flags & os.O_DIRECTORY else os.read(descriptor, 100).decode()
    except IsADirectoryError:
        return "directory"
    finally:
        os.close(descriptor)


EXPECTED = {
    "file.txt": "file",
    "./file.txt": "file",
    "dir//inner/./deep.txt": "deep",
    "dir/../file.txt": "file",
    "dir/inner/../../file.txt": "file",
    ".": "directory",
    "dir/..": "directory",
    "to_file": "file",
    "to_dir/inner/deep.txt": "deep",
    "to_dir_slash/inner/deep.txt": "deep",
    "chain": "file",
    "dir/up": "file",
    "to_dir/up": "file",
    "missing": "ENOENT",
    "missing/x": "ENOENT",
    "file.txt/": "ENOTDIR",
    "file.txt/x": "ENOTDIR",
    "to_file/x": "ENOTDIR",
    "..": "EXDEV",
    "../ws/file.txt": "EXDEV",
    "dir/../../secret.txt": "EXDEV",
    "to_dir/../../secret.txt": "EXDEV",
    "to_outside": "EXDEV",
    "to_outside_dir": "EXDEV",
    "to_outside_dir/secret.txt": "EXDEV",
    "to_outside_dir/ws/file.txt": "EXDEV",
    "dir/up_and_out": "EXDEV",
    "around": "EXDEV",
    "absolute": "EXDEV",
    "absolute_inside": "EXDEV",
    "/etc/passwd": "EXDEV",
    "dangling": "ENOENT",
    "dangling_outside": "EXDEV",
    "loop": "ELOOP",
    "": "ENOENT",
    "n" * 300: "ENAMETOOLONG",
}


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: path[:30] or "empty")
def test_a_path_leads_to_the_file_beneath_or_to_a_named_error(
    root: int, opener: Opener, path: str
) -> None:
    assert outcome(opener, root, path, os.O_RDONLY) == EXPECTED[path]


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_without_symlinks_any_link_is_refused(root: int, opener: Opener) -> None:
    assert outcome(opener, root, "dir/inner/deep.txt", os.O_RDONLY, symlinks=False) == "deep"
    for path in ("to_file", "to_dir/inner/deep.txt", "dir/up"):
        assert outcome(opener, root, path, os.O_RDONLY, symlinks=False) == "ELOOP"


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_directories_alone_are_opened_where_directories_are_asked_for(
    root: int, opener: Opener
) -> None:
    assert outcome(opener, root, "to_dir", beneath.DIRECTORY) == "directory"
    assert outcome(opener, root, "to_file", beneath.DIRECTORY) == "ENOTDIR"
    assert outcome(opener, root, "to_outside_dir", beneath.DIRECTORY) == "EXDEV"


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_creating_through_a_dangling_link_stays_beneath(
    root: int, opener: Opener, tmp_path: Path
) -> None:
    os.close(opener(root, "dangling", os.O_WRONLY | os.O_CREAT, 0o600))
    assert (tmp_path / "ws" / "nowhere").exists()
    assert outcome(opener, root, "dangling_outside", os.O_WRONLY | os.O_CREAT) == "EXDEV"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_descriptors_are_neither_leaked_nor_inherited(root: int, opener: Opener) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for path in EXPECTED:
        outcome(opener, root, path, os.O_RDONLY)
    assert len(os.listdir("/proc/self/fd")) == before
    descriptor = opener(root, "file.txt", os.O_RDONLY)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("opener", [beneath.openat2, beneath.walk])
def test_magic_links_of_proc_lead_nowhere(opener: Opener) -> None:
    process = os.open("/proc/self", beneath.DIRECTORY)
    try:
        for path in ("cwd", "root", "cwd/etc/passwd", "root/etc/passwd", "exe"):
            assert outcome(opener, process, path, os.O_RDONLY) in ("ELOOP", "EXDEV")
    finally:
        os.close(process)


def test_the_kernel_is_asked_where_it_can_be() -> None:
    assert beneath.open_beneath is beneath.openat2
