"""The root file system: an ext4 image made from a directory, by anyone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .failure import bad_input, require, run, step_failed
from .tree import Node, Tree

_OWNERS = "setting owners in the root file system"
_BLOCK = 4096
_INODE = 256
_SPARE_BYTES = 8 * 1024**2
_SPARE_INODES = 64


def write_ext4(root: Path, tree: Tree, image: Path) -> None:
    """Make the file `image` from the directory `root`, which `tree` was written to.

    It has no journal and no room to spare: it is only ever mounted read-only. Files in
    `root` that `tree` does not know belong to root. Raises SandboxError; OSError.
    """
    inodes, size = _measure(root)
    size += inodes * _INODE + size // 16 + _SPARE_BYTES  # bitmaps, directories, extents
    features = "^has_journal,^resize_inode"
    run(
        "making the root file system",
        [
            *(require("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-O", features),
            *("-b", str(_BLOCK), "-I", str(_INODE), "-N", str(inodes + _SPARE_INODES), "-m", "0"),
            *("-L", "mas-sandbox", "-d", str(root), str(image), str(size // _BLOCK)),
        ],
    )
    fixes = _fixes(root, tree)
    if fixes:
        argv = [require("debugfs", "e2fsprogs"), "-w", "-f", "-", str(image)]
        script = "".join(f"{fix}\n" for fix in fixes).encode()
        done = run(_OWNERS, argv, stdin=script)
        # It ends with 0 unless its last command failed; its first words are its version.
        if len(words := done.stderr.splitlines()) > 1:
            raise step_failed(_OWNERS, words[1].decode("utf-8", "replace"))


def _measure(root: Path) -> tuple[int, int]:
    """How many inodes there are, and how many bytes their blocks take."""
    inodes = size = 0
    for directory, _, files in os.walk(root):
        inodes += 1 + len(files)
        size += _BLOCK
        for name in files:
            status = os.lstat(os.path.join(directory, name))  # noqa: PTH118 - a hot loop
            size += -(-status.st_size // _BLOCK) * _BLOCK
    return inodes, size


def _fixes(root: Path, tree: Tree) -> list[str]:
    """What debugfs is to set: owners and modes that the directory could not have.

    Raises SandboxError `invalid_request` for a name that debugfs could take for a command.
    """
    known: dict[str, Node] = {"": tree.root, **dict(tree.walk())}
    fixes: list[str] = []
    for directory, names, files in os.walk(root):
        relative = os.path.relpath(directory, root)
        above = "" if relative == "." else f"{relative}/"
        for path in [f"{above}{name}" for name in names + files] + [""] * (relative == "."):
            wanted = _wanted(known.get(path), (root / path).lstat())
            if wanted and ('"' in path or not path.isprintable()):
                raise bad_input(
                    f"the image's file {path!r} has a name that cannot be handled; remove it "
                    "from the image"
                )
            fixes += [f'sif "/{path}" {field} {value}' for field, value in wanted.items()]
    return fixes


def _wanted(node: Node | None, status: os.stat_result) -> dict[str, str]:
    """Inode field -> value, of what differs; debugfs takes a mode in octal."""
    uid, gid = (node.uid, node.gid) if node else (0, 0)
    wanted: dict[str, str] = {}
    if status.st_uid != uid:
        wanted |= {"uid": str(uid)}
    if status.st_gid != gid:
        wanted |= {"gid": str(gid)}
    if node and node.target is None and stat.S_IMODE(status.st_mode) != node.mode:
        wanted["mode"] = f"0{stat.S_IFMT(status.st_mode) | node.mode:o}"
    return wanted
