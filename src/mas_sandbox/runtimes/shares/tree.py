"""One shared directory as the host's file system has it: opened beneath its root, each time.

Every function here may wait for a disk. They run in threads that are the directory's
owner to the kernel (`workers.py`), so that the host's own permissions decide.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from . import kernel
from .nodes import Handles, Node, Nodes
from .protocol import Request

_PATH = kernel.O_PATH | os.O_NOFOLLOW
_DIRECTORY = kernel.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
_OPENED = os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC
"""What a guest may ask of an open file of the host's."""
MODE = 0o1777
"""What it may make of a file's mode: nothing here becomes setuid or setgid."""
_MAX_NAME = 255


class Tree:
    """`root`: a descriptor, not closed here."""

    def __init__(self, root: int) -> None:
        status = os.fstat(root)
        self.root = root
        self.nodes = Nodes((status.st_dev, status.st_ino))
        self.handles = Handles()

    @contextmanager
    def at(self, node: Node, flags: int = _PATH) -> Iterator[int]:
        """The node, opened. Raises OSError ESTALE where its name leads to something else."""
        try:
            descriptor = kernel.open_beneath(self.root, self.nodes.path(node), flags)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise _stale() from error
            raise
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) != node.inode:
                raise _stale()
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def directory(self, number: int) -> Iterator[tuple[Node, int]]:
        """A directory by its node's number, opened."""
        node = self.nodes.find(number)
        with self.at(node, _DIRECTORY) as descriptor:
            yield node, descriptor

    def look_up(self, parent: Node, directory: int, name: bytes) -> tuple[int, os.stat_result]:
        """What is at a name: its node, known to the guest once more."""
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return self.nodes.seen(parent, name, status), status

    def moved(self, parent: Node, directory: int, name: bytes) -> None:
        """A rename has brought something to this name."""
        try:
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return  # and something else has taken it away again
        self.nodes.moved(parent, name, status)

    def status(self, node: Node) -> os.stat_result:
        with self.at_or_open(node) as descriptor:
            return os.fstat(descriptor)

    @contextmanager
    def at_or_open(self, node: Node) -> Iterator[int]:
        """The node by its name, or where it has none any more, by a file that is open."""
        with ExitStack() as stack:
            try:
                descriptor = stack.enter_context(self.at(node))
            except OSError as error:
                handle = self.handles.of(node)
                if error.errno != errno.ESTALE or handle is None:
                    raise
                descriptor = stack.enter_context(handle)
            yield descriptor

    def open(self, node: Node, flags: int) -> int:
        """A regular file; the number of its handle."""
        with self.at(node) as descriptor:
            return self.handles.add(_reopen(descriptor, flags & _FLAGS), node)

    def open_directory(self, node: Node) -> int:
        with self.at(node, _DIRECTORY) as descriptor:
            listed = os.open(_magic(descriptor), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            return self.handles.add(listed, node)

    def create(
        self, parent: Node, name: bytes, flags: int, mode: int
    ) -> tuple[int, os.stat_result, int]:
        """Make and open a regular file: node, status, handle."""
        with self.at(parent, _DIRECTORY) as directory:
            try:
                descriptor = make(directory, name, flags & _FLAGS, mode)
            except FileExistsError:
                if flags & os.O_EXCL:
                    raise
                descriptor = _open_existing(directory, name, flags & (_FLAGS | os.O_TRUNC))
        status = os.fstat(descriptor)
        try:
            number = self.nodes.seen(parent, name, status)
        except OSError:
            os.close(descriptor)
            raise
        return number, status, self.handles.add(descriptor, self.nodes.find(number))

    @contextmanager
    def writable(self, node: Node, handle: int | None) -> Iterator[int]:
        """A descriptor of a regular file that can be written: an open one where it is named."""
        if handle is not None:
            with self.handles.find(handle) as descriptor:
                yield descriptor
            return
        with self.at(node) as path:
            descriptor = _reopen(path, os.O_WRONLY)
            try:
                yield descriptor
            finally:
                os.close(descriptor)


def change_mode(descriptor: int, mode: int) -> None:
    """A directory keeps the setgid bit that the host gave it."""
    status = os.fstat(descriptor)
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    kept = status.st_mode & stat.S_ISGID if stat.S_ISDIR(status.st_mode) else 0
    Path(_magic(descriptor)).chmod(mode & MODE | kept)


def change_times(descriptor: int, accessed: int | None, modified: int | None) -> None:
    """Nanoseconds since the epoch; None leaves it. A symbolic link's own are changed."""
    status = os.fstat(descriptor)
    times = (
        status.st_atime_ns if accessed is None else accessed,
        status.st_mtime_ns if modified is None else modified,
    )
    os.utime(_magic(descriptor), ns=times)


def link(descriptor: int, directory: int, name: bytes) -> None:
    """Give an open file one more name."""
    os.link(_magic(descriptor), name, dst_dir_fd=directory, follow_symlinks=True)


def read_link(descriptor: int) -> bytes:
    return os.readlink(b"", dir_fd=descriptor)


def checked_name(name: bytes, request: Request) -> bytes:
    """One component of a path. Raises ProtocolError for what no kernel asks for."""
    if not name or name in (b".", b"..") or b"/" in name:
        raise request.malformed()
    if len(name) > _MAX_NAME:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    return name


def make(directory: int, name: bytes, flags: int, mode: int) -> int:
    creating = flags | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | _OPENED
    return os.open(name, creating, mode & MODE, dir_fd=directory)


def _open_existing(directory: int, name: bytes, flags: int) -> int:
    path = os.open(name, _PATH | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _reopen(path, flags)
    finally:
        os.close(path)


def _reopen(descriptor: int, flags: int) -> int:
    """A regular file, for reading or writing. Nothing else of the host's is ever opened: to
    open a FIFO waits or wakes somebody, a device may do anything at all."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.ENXIO
        raise OSError(errno.ELOOP if stat.S_ISLNK(mode) else number, "not a regular file")
    return os.open(_magic(descriptor), flags | _OPENED)


def _magic(descriptor: int) -> str:
    """The very inode that is open, by the link that proc(5) has for it."""
    return f"/proc/self/fd/{descriptor}"


def _stale() -> OSError:
    return OSError(errno.ESTALE, os.strerror(errno.ESTALE))
