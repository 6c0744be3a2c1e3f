"""The root file system's image: right owners and modes, made by anyone."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm.image.ext4 import write_ext4
from mas_sandbox.runtimes.microvm.image.failure import require
from mas_sandbox.runtimes.microvm.image.tree import Tree
from mas_sandbox.wire.errors import ErrorCode, SandboxError


def applied(tmp_path: Path, *members: tarfile.TarInfo) -> tuple[Path, Tree]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as packed:
        for info in members:
            packed.addfile(info, io.BytesIO(b"x" * info.size))
    file.seek(0)
    (tmp_path / "spool").mkdir()
    tree = Tree(tmp_path / "spool")
    tree.apply(file, "the archive")
    tree.write(tmp_path / "root")
    return tmp_path / "root", tree


def info(name: str, mode: int = 0o644, uid: int = 0, gid: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.mode, made.uid, made.gid = 5, mode, uid, gid
    return made


def asked(image: Path, path: str) -> str:
    argv = [require("debugfs", "e2fsprogs"), "-R", f'stat "{path}"', str(image)]
    return " ".join(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def test_owners_and_modes_are_those_of_the_archive(tmp_path: Path) -> None:
    members = [
        info("home/a file", 0o640, 1000, 100_000),
        info("tool", 0o6755, 0, 0),
        info("shadow", 0),
        info("späte", 0o600, 5, 5),
    ]
    root, tree = applied(tmp_path, *members)
    (root / "added later").write_bytes(b"")
    image = tmp_path / "rootfs.ext4"
    write_ext4(root, tree, image)
    assert "Mode: 0640" in asked(image, "/home/a file")
    assert "User: 1000 Group: 100000" in asked(image, "/home/a file")
    assert "Mode: 06755" in asked(image, "/tool")
    assert "regular Mode: 0000" in asked(image, "/shadow")
    assert "User: 5 Group: 5" in asked(image, "/späte")
    assert "User: 0 Group: 0" in asked(image, "/added later")
    check = subprocess.run([require("e2fsck", "e2fsprogs"), "-fn", str(image)], check=False)
    assert check.returncode == 0


@pytest.mark.parametrize("name", ['a"b', "a\nwrite /etc/passwd x\nb"])
def test_a_name_that_could_be_a_command_is_refused(tmp_path: Path, name: str) -> None:
    root, tree = applied(tmp_path, info(name, 0o644, 7, 7))
    with pytest.raises(SandboxError, match="has a name that cannot be handled") as caught:
        write_ext4(root, tree, tmp_path / "rootfs.ext4")
    assert caught.value.code is ErrorCode.INVALID_REQUEST


def test_an_owner_that_could_not_be_set_is_an_error(tmp_path: Path) -> None:
    root, tree = applied(tmp_path, info("a" * 100, 0o644, 2**40, 7), info("b", 0o644, 7, 7))
    with pytest.raises(SandboxError, match="setting owners in the root file system failed"):
        write_ext4(root, tree, tmp_path / "rootfs.ext4")


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SandboxError, match=r"needs the program mke5fs.*package e5fsprogs"):
        require("mke5fs", "e5fsprogs")
