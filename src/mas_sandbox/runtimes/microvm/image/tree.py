"""A file tree in memory, built from layers of tar archives, then written out once.

An archive is someone else's. Nothing of it touches the file system by its own name
until the whole tree is known: then directories and files are made in a new directory,
and symbolic links last, so that none can be followed on the way.
"""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .failure import bad_input

MAX_BYTES = 16 * 1024**3
MAX_ENTRIES = 1_000_000
_MAX_DEPTH = 128
_MAX_NAME = 255  # NAME_MAX
_MAX_LINKS = 40
_MAX_TARGET = 4095  # PATH_MAX less its NUL
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(slots=True, eq=False)
class Node:
    """A directory (`children`), a file (`content`: where its bytes are) or a link (`target`).

    `layer`: the number of the layer that it, or something in it, came from last.
    Names that are hard links share one node.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: float = 0
    layer: int = 0
    children: dict[str, Node] = field(default_factory=dict)
    content: Path | bytes | None = None
    target: str | None = None
    written: Path | None = None

    @property
    def is_directory(self) -> bool:
        return self.content is None and self.target is None


class Tree:
    """`spool`: an empty directory that the files' bytes wait in; it must outlive the tree
    until `write`, and be on the file system that is written to."""

    def __init__(self, spool: Path) -> None:
        self.root = Node(mode=0o755)
        self._spool = spool
        self._layer = 0
        self._entries = 0
        self._bytes = 0

    def apply(self, archive: IO[bytes], name: str) -> None:
        """Lay one tar archive on top, with the whiteouts of OCI layers.

        (OCI image specification, layer.md.) Devices, sockets and pipes are left out.
        `name`: what an error calls it. Raises SandboxError `invalid_request` for what
        is no tar archive, leads out of the tree, or is too large; OSError.
        """
        self._layer += 1
        try:
            with tarfile.open(fileobj=archive, mode="r|*") as members:
                for member in members:
                    self._add(member, members)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise bad_input(f"{name} is no whole tar archive: {error}") from error
        except _Refused as refused:
            raise bad_input(f"{name}: {refused.message}") from refused

    def add_directory(self, path: str, mode: int = 0o755) -> None:
        """Make a directory and those above it, where they are missing."""
        self._directory(_split(path)).mode = mode

    def add_file(self, path: str, content: Path | bytes, mode: int = 0o644) -> None:
        """A Path is moved from there when the tree is written."""
        *parents, name = _split(path)
        self._directory(parents).children[name] = Node(mode, content=content, layer=self._layer)

    def add_link(self, path: str, target: str) -> None:
        *parents, name = _split(path)
        self._directory(parents).children[name] = Node(0o777, target=target, layer=self._layer)

    def find(self, path: str) -> Node | None:
        """What is at a path, links followed within the tree."""
        try:
            return self._walk(_split(path), make=False)
        except _Refused:
            return None

    def remove(self, path: str) -> None:
        """Take away what is at a path, the last component not followed."""
        *parents, name = _split(path)
        above = self.find("/".join(parents))
        if above is not None:
            above.children.pop(name, None)

    def walk(self) -> Iterator[tuple[str, Node]]:
        """Every path below the root, a directory before what is in it."""
        pending = [("", self.root)]
        while pending:
            path, node = pending.pop()
            if path:
                yield path, node
            pending += [
                (f"{path}/{name}" if path else name, node.children[name])
                for name in sorted(node.children, reverse=True)
            ]

    def write(self, directory: Path) -> None:
        """Make the tree in a new directory, with times and modes; all of it belongs to us.

        Owners are `walk`'s to tell. What we could not read is made readable for us.
        Raises OSError.
        """
        directory.mkdir()
        links: list[tuple[Path, Node]] = []
        directories = [(directory, self.root)]
        for path, node in self.walk():
            place = directory / path
            if node.is_directory:
                place.mkdir()
                directories.append((place, node))
            elif node.target is not None:
                links.append((place, node))
            else:
                _write_file(place, node)
        for place, node in links:
            place.symlink_to(node.target or "")
            os.utime(place, (node.mtime, node.mtime), follow_symlinks=False)
        for place, node in reversed(directories):
            place.chmod(node.mode | stat.S_IRWXU)
            os.utime(place, (node.mtime, node.mtime))

    def _add(self, member: tarfile.TarInfo, members: tarfile.TarFile) -> None:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            raise _Refused(f"more than {MAX_ENTRIES} files")
        path = _split(member.name)
        if not path:
            if member.isdir():
                self.root.mode = member.mode & 0o7777
            return
        *parents, name = path
        if name == _OPAQUE:
            self._prune(self._directory(parents))
        elif name.startswith(_WHITEOUT):
            self._white_out(self._directory(parents), name.removeprefix(_WHITEOUT))
        elif member.isdir():
            self._add_directory(self._directory(parents), name, member)
        elif member.issym():
            self._put(parents, name, self._node(member, target=_target(member)))
        elif member.islnk():
            self._add_hard_link(parents, name, member)
        elif member.isreg():
            self._put(parents, name, self._node(member, content=self._store(member, members)))

    def _node(
        self, member: tarfile.TarInfo, content: Path | None = None, target: str | None = None
    ) -> Node:
        return Node(
            member.mode & 0o7777,
            member.uid,
            member.gid,
            max(0.0, float(member.mtime)),
            self._layer,
            content=content,
            target=target,
        )

    def _put(self, parents: list[str], name: str, node: Node) -> None:
        self._directory(parents).children[name] = node

    def _add_directory(self, above: Node, name: str, member: tarfile.TarInfo) -> None:
        """A directory stays what it is, with new attributes; a link to one is replaced."""
        new = self._node(member)
        old = above.children.get(name)
        if old is not None and old.is_directory:
            new.children = old.children
        above.children[name] = new

    def _add_hard_link(self, parents: list[str], name: str, member: tarfile.TarInfo) -> None:
        *others, last = _split(member.linkname) or [""]
        node = self._directory(others).children.get(last)
        if node is None or node.is_directory:
            raise _Refused(
                f"{member.name!r} is a hard link to {member.linkname!r}, which is no file"
            )
        self._put(parents, name, node)

    def _store(self, member: tarfile.TarInfo, members: tarfile.TarFile) -> Path:
        self._bytes += member.size
        if self._bytes > MAX_BYTES:
            raise _Refused(f"more than {MAX_BYTES >> 30} GiB of files")
        place = self._spool / str(self._entries)
        source = members.extractfile(member)
        if source is None:
            raise _Refused(f"{member.name!r} has no content")
        with place.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1024 * 1024)
        return place

    def _white_out(self, above: Node, name: str) -> None:
        """Remove what lower layers have there; this layer's own stays."""
        node = above.children.get(name)
        if node is None:
            return
        if node.layer != self._layer:
            del above.children[name]
        elif node.is_directory:
            self._prune(node)

    def _prune(self, directory: Node) -> None:
        for name in list(directory.children):
            self._white_out(directory, name)

    def _directory(self, parts: list[str]) -> Node:
        """The directory at a path, links followed within the tree, made where missing."""
        node = self._walk(parts, make=True)
        if node is None or not node.is_directory:
            raise _Refused(f"{'/'.join(parts)!r} is no directory")
        return node

    def _walk(self, parts: list[str], make: bool) -> Node | None:
        """Links are resolved as if the tree were the whole file system."""
        pending = parts[::-1]
        above: list[Node] = []
        node = self.root
        links = 0
        while pending:
            name = pending.pop()
            if name == "..":
                node = above.pop() if above else self.root
                continue
            if not node.is_directory:
                raise _Refused(f"{'/'.join(parts)!r} leads through a file")
            child = node.children.get(name)
            if child is None:
                if not make:
                    return None
                child = node.children[name] = Node(0o755, layer=self._layer)
            if child.target is not None:
                links += 1
                if links > _MAX_LINKS:
                    raise _Refused(f"{'/'.join(parts)!r} has too many links in it")
                if child.target.startswith("/"):
                    node, above = self.root, []
                pending += [part for part in child.target.split("/") if part not in ("", ".")][::-1]
                continue
            if make:
                child.layer = self._layer
            above.append(node)
            node = child
        return node


class _Refused(SandboxError):
    """Something that no image may hold."""

    def __init__(self, message: str) -> None:
        super().__init__(ErrorCode.INVALID_REQUEST, message)


def _split(path: str) -> list[str]:
    """The components. Raises _Refused for one that no file system of ours would hold."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise _Refused(f"{path[:200]!r} leads out of the image")
    if len(parts) > _MAX_DEPTH:
        raise _Refused(f"{path[:200]!r}... is nested too deeply")
    for part in parts:
        if "\0" in part or len(os.fsencode(part)) > _MAX_NAME:
            raise _Refused(f"{part[:200]!r} is no name of a file")
    return parts


def _target(member: tarfile.TarInfo) -> str:
    target = member.linkname
    if not target or "\0" in target or len(os.fsencode(target)) > _MAX_TARGET:
        raise _Refused(f"{member.name[:200]!r} is a link to nowhere")
    return target


def _write_file(place: Path, node: Node) -> None:
    if node.written is not None:
        place.hardlink_to(node.written)
        return
    if isinstance(node.content, Path):
        node.content.rename(place)
    else:
        place.write_bytes(node.content or b"")
    place.chmod(node.mode | stat.S_IRUSR | stat.S_IWUSR)
    os.utime(place, (node.mtime, node.mtime))
    node.written = place
