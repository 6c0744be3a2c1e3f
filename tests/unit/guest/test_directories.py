"""Components of a path, opened one by one and through no symbolic link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mas_sandbox.guest.directories import inside, open_beneath
from mas_sandbox.guest.refusal import Refused


@pytest.mark.parametrize(
    ("path", "components"),
    [
        ("/workspace", []),
        ("/workspace/", []),
        ("/workspace/./a//b/", ["a", "b"]),
        ("/workspace-evil", None),
        ("/work", None),
        ("/", None),
        ("workspace/a", None),
        ("//workspace", None),
    ],
)
def test_what_is_inside(path: str, components: list[str] | None) -> None:
    assert inside(path) == components


@pytest.mark.parametrize("path", ["/workspace/..", "/workspace/../etc", "/a/../b", "/workspace/\0"])
def test_dots_and_nul_are_refused(path: str) -> None:
    with pytest.raises(Refused):
        inside(path)


def test_the_descriptor_is_that_of_the_path(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for components in ([], ["a"], ["a", "b"]):
        descriptor = open_beneath(str(tmp_path), components)
        assert os.path.samestat(os.fstat(descriptor), tmp_path.joinpath(*components).stat())
        os.close(descriptor)


def test_links_and_files_lead_nowhere_and_no_descriptor_is_lost(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/")
    (tmp_path / "file").touch()
    before = os.listdir("/proc/self/fd")
    for components in (["link", "etc"], ["file", "x"], ["absent", "x"]):
        with pytest.raises((NotADirectoryError, FileNotFoundError)):
            open_beneath(str(tmp_path), components)
    assert os.listdir("/proc/self/fd") == before
