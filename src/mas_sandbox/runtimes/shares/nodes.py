"""What a guest knows by number: nodes of the shared tree, and open files.

A node is an inode of the host and the name it was last seen at. Nothing is kept open for
it: it is opened again by that name, beneath the share's root, and must turn out to be the
same inode. So whatever is renamed, replaced or removed on the host in between, a number
never leads to another file.
"""

from __future__ import annotations

import errno
import os
import threading
from dataclasses import dataclass, field

from .protocol import ROOT

MAX_NODES = 262_144
"""How many a guest may know at once: some 60 MiB of the daemon's memory. The rest is ENFILE."""
MAX_OPEN = 1024
"""How many files and directories a share may have open at once. The rest is EMFILE."""

_MAX_DEPTH = 2048  # PATH_MAX holds no more


@dataclass(slots=True, eq=False)
class Node:
    """`inode`: device and number; `lookups`: how often the guest was told of it."""

    number: int
    inode: tuple[int, int]
    parent: Node | None
    name: bytes
    lookups: int = 0
    opened: list[Handle] = field(default_factory=list)


class Handle:
    """An open file. Used as a context, it stays open until the last user has left: a guest
    may send the end of a file while another request for it is still at work."""

    def __init__(self, descriptor: int, node: Node) -> None:
        self.descriptor = descriptor
        self.node = node
        self.reading = threading.Lock()
        """Held by whoever moves a directory's position."""
        self._users = 1
        self._lock = threading.Lock()

    def __enter__(self) -> int:
        with self._lock:
            if self._users == 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._users += 1
        return self.descriptor

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(self.descriptor)


class Nodes:
    """Every node of one share. Safe to use from several threads."""

    def __init__(self, root: tuple[int, int]) -> None:
        self._lock = threading.Lock()
        self._root = Node(ROOT, root, None, b".")
        self._by_number = {ROOT: self._root}
        self._by_inode = {root: self._root}
        self._last = ROOT

    def find(self, number: int) -> Node:
        """Raises OSError ESTALE."""
        with self._lock:
            node = self._by_number.get(number)
        if node is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return node

    def path(self, node: Node) -> bytes:
        """Where it was last seen, relative to the root."""
        parts: list[bytes] = []
        with self._lock:
            here: Node | None = node
            while here is not None and here is not self._root:
                parts.append(here.name)
                here = here.parent
                if len(parts) > _MAX_DEPTH:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return b"/".join(reversed(parts)) or b"."

    def seen(self, parent: Node, name: bytes, status: os.stat_result, lookups: int = 1) -> int:
        """The number of what was seen at `name`, and `lookups` more times told to the guest.

        Raises OSError ENFILE.
        """
        inode = status.st_dev, status.st_ino
        with self._lock:
            node = self._by_inode.get(inode)
            if node is None:
                if len(self._by_number) >= MAX_NODES:
                    raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))
                self._last += 1
                node = Node(self._last, inode, parent, name)
                self._by_number[node.number] = self._by_inode[inode] = node
            elif node is not self._root and not self._above(node, parent):
                node.parent, node.name = parent, name
            node.lookups += lookups
            return node.number

    def moved(self, parent: Node, name: bytes, status: os.stat_result) -> None:
        """A rename has brought an inode to `name`."""
        with self._lock:
            node = self._by_inode.get((status.st_dev, status.st_ino))
            if node is not None and node is not self._root and not self._above(node, parent):
                node.parent, node.name = parent, name

    def forget(self, number: int, lookups: int) -> None:
        """The guest knows it so many times less."""
        with self._lock:
            node = self._by_number.get(number)
            if node is None or node is self._root:
                return
            node.lookups -= lookups
            if node.lookups <= 0:
                del self._by_number[number]
                if self._by_inode.get(node.inode) is node:
                    del self._by_inode[node.inode]

    @staticmethod
    def _above(node: Node, place: Node) -> bool:
        """Whether `place` is the node or inside it, as a host that renames may make it seem."""
        here: Node | None = place
        while here is not None:
            if here is node:
                return True
            here = here.parent
        return False


class Handles:
    """Every file and directory that one share has open."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[int, Handle] = {}
        self._last = 0

    def add(self, descriptor: int, node: Node) -> int:
        """Its number. Closes the descriptor and raises OSError EMFILE where there are too many."""
        with self._lock:
            if len(self._open) < MAX_OPEN:
                self._last += 1
                handle = self._open[self._last] = Handle(descriptor, node)
                node.opened.append(handle)
                return self._last
        os.close(descriptor)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    def find(self, number: int) -> Handle:
        """Raises OSError EBADF."""
        with self._lock:
            handle = self._open.get(number)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def of(self, node: Node) -> Handle | None:
        """Any open file of a node, which may have no name any more."""
        with self._lock:
            return node.opened[-1] if node.opened else None

    def release(self, number: int) -> None:
        with self._lock:
            handle = self._open.pop(number, None)
            if handle is not None:
                handle.node.opened.remove(handle)
        if handle is not None:
            handle.release()

    def close(self) -> None:
        with self._lock:
            handles, self._open = [*self._open.values()], {}
        for handle in handles:
            handle.release()
