"""The answer to each FUSE request, from the host's file system."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Callable

from mas_sandbox.wire.frames import ProtocolError

from . import kernel, protocol, tree
from .nodes import Node
from .protocol import Attributes, Op, Request
from .tree import Tree

_BY_HANDLE = 1  # FUSE_GETATTR_FH
_MODE, _USER, _GROUP, _SIZE, _ACCESSED, _MODIFIED, _HANDLE = 1, 2, 4, 8, 16, 32, 64
_ACCESSED_NOW, _MODIFIED_NOW = 128, 256  # FATTR_*
_DATASYNC = 1  # FUSE_FSYNC_FDATASYNC
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # FALLOC_FL_*
_NO_REPLACE, _EXCHANGE = 1, 2  # RENAME_*
_COPIED_AT_ONCE = 16 << 20
_MAX_OFFSET = (1 << 63) - 1
_DIRENT = struct.Struct("=QqHB")
"""struct linux_dirent64, getdents(2), up to its name."""
_DIRENT_BYTES = 19


class Operations:
    """Answers requests of one share. Safe to use from several threads, and may wait.

    `owner`, `group`: on the host, whom the guest's user stands for.
    """

    def __init__(self, root: int, *, writable: bool, owner: int, group: int) -> None:
        self._tree = Tree(root)
        self._writable = writable
        self._attributes = Attributes(owner, group)
        self._answers: dict[Op, Callable[[Request], bytes]] = {
            Op.LOOKUP: self._look_up,
            Op.GETATTR: self._get_attributes,
            Op.SETATTR: self._set_attributes,
            Op.READLINK: self._read_link,
            Op.SYMLINK: self._make_symlink,
            Op.MKNOD: self._make_node,
            Op.MKDIR: self._make_directory,
            Op.UNLINK: self._unlink,
            Op.RMDIR: self._unlink,
            Op.RENAME: self._rename,
            Op.RENAME2: self._rename,
            Op.LINK: self._link,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.STATFS: self._statfs,
            Op.RELEASE: self._release,
            Op.RELEASEDIR: self._release,
            Op.FSYNC: self._sync,
            Op.FSYNCDIR: self._sync,
            Op.INIT: protocol.init_reply,
            Op.OPENDIR: self._open_directory,
            Op.READDIR: self._list,
            Op.READDIRPLUS: self._list,
            Op.CREATE: self._create,
            Op.FALLOCATE: self._allocate,
            Op.LSEEK: self._seek,
            Op.COPY_FILE_RANGE: self._copy,
            Op.DESTROY: lambda _: b"",
        }

    def answer(self, request: Request) -> bytes:
        """A whole reply; empty where there is none. Raises ProtocolError."""
        op = request.op
        if op in protocol.UNANSWERED:
            self._forget(request)
            return b""
        if not isinstance(op, Op) or op not in self._answers:
            return protocol.error_reply(request.unique, errno.ENOSYS)
        try:
            if op in protocol.CHANGING and not self._writable:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            return protocol.reply(request.unique, self._answers[op](request))
        except OSError as error:
            return protocol.error_reply(request.unique, error.errno or errno.EIO)
        except (ValueError, OverflowError):  # a number that no system call takes
            return protocol.error_reply(request.unique, errno.EINVAL)

    def close(self) -> None:
        self._tree.handles.close()

    def _forget(self, request: Request) -> None:
        if request.op is Op.FORGET:
            (lookups,) = request.unpack(protocol.FORGET)
            self._tree.nodes.forget(request.node, lookups)
        elif request.op is Op.BATCH_FORGET:
            size, one = protocol.BATCH_FORGET.size, protocol.FORGET_ONE
            if (len(request.body) - size) % one.size or len(request.body) < size:
                raise request.malformed()
            for number, lookups in one.iter_unpack(request.body[size:]):
                self._tree.nodes.forget(number, lookups)

    # Names.

    def _look_up(self, request: Request) -> bytes:
        _, (name,) = request.unpack_names(protocol.NOTHING, 1)
        with self._tree.directory(request.node) as (parent, descriptor):
            found = self._tree.look_up(parent, descriptor, tree.checked_name(name, request))
        return self._attributes.entry(*found)

    def _made(self, request: Request, name: bytes, make: Callable[[bytes, int], None]) -> bytes:
        """`make(name, directory)` in the request's directory, and what is there then."""
        with self._tree.directory(request.node) as (parent, descriptor):
            make(tree.checked_name(name, request), descriptor)
            return self._attributes.entry(*self._tree.look_up(parent, descriptor, name))

    def _make_directory(self, request: Request) -> bytes:
        (mode, _), (name,) = request.unpack_names(protocol.MKDIR, 1)
        return self._made(
            request, name, lambda name, parent: os.mkdir(name, mode & tree.MODE, dir_fd=parent)
        )

    def _make_node(self, request: Request) -> bytes:
        (mode, *_), (name,) = request.unpack_names(protocol.MKNOD, 1)
        if not stat.S_ISREG(mode):
            raise OSError(errno.EPERM, "no devices, pipes or sockets are made on the host")
        return self._made(
            request, name, lambda name, parent: os.close(tree.make(parent, name, 0, mode))
        )

    def _make_symlink(self, request: Request) -> bytes:
        _, (name, target) = request.unpack_names(protocol.NOTHING, 2)
        return self._made(
            request, name, lambda name, parent: os.symlink(target, name, dir_fd=parent)
        )

    def _link(self, request: Request) -> bytes:
        (old,), (name,) = request.unpack_names(protocol.LINK, 1)
        with self._tree.at(self._tree.nodes.find(old)) as descriptor:
            return self._made(
                request, name, lambda name, parent: tree.link(descriptor, parent, name)
            )

    def _unlink(self, request: Request) -> bytes:
        _, (name,) = request.unpack_names(protocol.NOTHING, 1)
        remove = os.unlink if request.op is Op.UNLINK else os.rmdir
        with self._tree.directory(request.node) as (_, descriptor):
            remove(tree.checked_name(name, request), dir_fd=descriptor)
        return b""

    def _rename(self, request: Request) -> bytes:
        layout = protocol.RENAME if request.op is Op.RENAME else protocol.RENAME2
        (target, *rest), (old, new) = request.unpack_names(layout, 2)
        flags = rest[0] if rest else 0
        if flags not in (0, _NO_REPLACE, _EXCHANGE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        old, new = tree.checked_name(old, request), tree.checked_name(new, request)
        opened = self._tree.directory
        with (
            opened(request.node) as (old_parent, source),
            opened(target) as (new_parent, destination),
        ):
            kernel.rename(source, old, destination, new, flags)
            self._tree.moved(new_parent, destination, new)
            if flags == _EXCHANGE:
                self._tree.moved(old_parent, source, old)
        return b""

    def _read_link(self, request: Request) -> bytes:
        request.unpack(protocol.NOTHING)
        with self._tree.at(self._tree.nodes.find(request.node)) as descriptor:
            return tree.read_link(descriptor)

    # Attributes.

    def _get_attributes(self, request: Request) -> bytes:
        flags, _, handle = request.unpack(protocol.GETATTR)
        if flags & _BY_HANDLE:
            with self._tree.handles.find(handle) as descriptor:
                return self._attributes.reply(os.fstat(descriptor))
        node = self._tree.nodes.find(request.node)
        return self._attributes.reply(self._tree.status(node))

    def _set_attributes(self, request: Request) -> bytes:
        fields = request.unpack(protocol.SETATTR)
        valid, _, handle, size, _, accessed, modified, _ = fields[:8]
        accessed_ns, modified_ns, _, mode, _, user, group, _ = fields[8:]
        node = self._tree.nodes.find(request.node)
        for asked, identity in ((_USER, user), (_GROUP, group)):
            if valid & asked and identity != protocol.GUEST_USER:
                raise OSError(errno.EPERM, "the host's files keep their owner")
        if valid & _SIZE:
            with self._tree.writable(node, handle if valid & _HANDLE else None) as descriptor:
                os.ftruncate(descriptor, size)
        if valid & (_MODE | _ACCESSED | _MODIFIED):
            with self._tree.at_or_open(node) as descriptor:
                if valid & _MODE:
                    tree.change_mode(descriptor, mode)
                if valid & (_ACCESSED | _MODIFIED):
                    tree.change_times(
                        descriptor,
                        _time(valid, _ACCESSED, _ACCESSED_NOW, accessed, accessed_ns),
                        _time(valid, _MODIFIED, _MODIFIED_NOW, modified, modified_ns),
                    )
        return self._attributes.reply(self._tree.status(node))

    def _statfs(self, request: Request) -> bytes:
        request.unpack(protocol.NOTHING)
        return protocol.statfs(os.statvfs(self._tree.root))

    # Open files.

    def _open(self, request: Request) -> bytes:
        flags, _ = request.unpack(protocol.OPEN)
        self._refuse_writing(flags)
        handle = self._tree.open(self._tree.nodes.find(request.node), flags)
        return protocol.OPENED.pack(handle, 0, 0)

    def _create(self, request: Request) -> bytes:
        (flags, mode, *_), (name,) = request.unpack_names(protocol.CREATE, 1)
        parent = self._tree.nodes.find(request.node)
        made = self._tree.create(parent, tree.checked_name(name, request), flags, mode)
        number, status, handle = made
        return self._attributes.entry(number, status) + protocol.OPENED.pack(handle, 0, 0)

    def _open_directory(self, request: Request) -> bytes:
        request.unpack(protocol.OPEN)
        handle = self._tree.open_directory(self._tree.nodes.find(request.node))
        return protocol.OPENED.pack(handle, 0, 0)

    def _release(self, request: Request) -> bytes:
        handle, *_ = request.unpack(protocol.RELEASE)
        self._tree.handles.release(handle)
        return b""

    def _read(self, request: Request) -> bytes:
        handle, offset, size, *_ = request.unpack(protocol.READ)
        with self._tree.handles.find(handle) as descriptor:
            return os.pread(descriptor, min(size, protocol.MAX_DATA), offset)

    def _write(self, request: Request) -> bytes:
        layout = protocol.WRITE
        if len(request.body) < layout.size:
            raise request.malformed()
        handle, offset, size, *_ = layout.unpack_from(request.body)
        data = memoryview(request.body)[layout.size :]
        if len(data) != size:
            raise request.malformed()
        with self._tree.handles.find(handle) as descriptor:
            written = os.pwrite(descriptor, data, offset)
        return protocol.WRITTEN.pack(written, 0)

    def _sync(self, request: Request) -> bytes:
        handle, flags, _ = request.unpack(protocol.FSYNC)
        with self._tree.handles.find(handle) as descriptor:
            (os.fdatasync if flags & _DATASYNC else os.fsync)(descriptor)
        return b""

    def _allocate(self, request: Request) -> bytes:
        handle, offset, length, mode, _ = request.unpack(protocol.FALLOCATE)
        if mode not in (0, _KEEP_SIZE, _KEEP_SIZE | _PUNCH_HOLE):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        if max(offset, length) > _MAX_OFFSET:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with self._tree.handles.find(handle) as descriptor:
            kernel.allocate(descriptor, mode, offset, length)
        return b""

    def _seek(self, request: Request) -> bytes:
        handle, offset, whence, _ = request.unpack(protocol.LSEEK)
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        with self._tree.handles.find(handle) as descriptor:
            return protocol.SOUGHT.pack(os.lseek(descriptor, offset, whence))

    def _copy(self, request: Request) -> bytes:
        """From file to file on the host, without a way through the guest."""
        source, source_offset, _, target, target_offset, length, _ = request.unpack(
            protocol.COPY_FILE_RANGE
        )
        handles = self._tree.handles
        with handles.find(source) as reading, handles.find(target) as writing:
            count = min(length, _COPIED_AT_ONCE)
            copied = os.copy_file_range(reading, writing, count, source_offset, target_offset)
        return protocol.WRITTEN.pack(copied, 0)

    def _list(self, request: Request) -> bytes:
        handle, offset, size, *_ = request.unpack(protocol.READ)
        plus = request.op is Op.READDIRPLUS
        found = self._tree.handles.find(handle)
        room = min(size, protocol.MAX_DATA)
        listed = bytearray()
        with found as descriptor, found.reading:
            os.lseek(descriptor, offset, os.SEEK_SET)
            entries = kernel.read_directory(descriptor, max(room // (6 if plus else 1), 512))
            position = 0
            while position < len(entries):
                inode, following, length, kind = _DIRENT.unpack_from(entries, position)
                name = entries[position + _DIRENT_BYTES : position + length].split(b"\0", 1)[0]
                entry = protocol.directory_entry(inode, following, kind, name)
                position += length
                if len(listed) + len(entry) + plus * len(protocol.NO_ENTRY) > room:
                    break
                if plus:
                    listed += self._entry_of(found.node, descriptor, name)
                listed += entry
        return bytes(listed)

    def _entry_of(self, parent: Node, directory: int, name: bytes) -> bytes:
        """What is at a listed name; nothing where it is gone, or there are too many nodes."""
        if name in (b".", b".."):
            return protocol.NO_ENTRY
        try:
            return self._attributes.entry(*self._tree.look_up(parent, directory, name))
        except OSError:
            return protocol.NO_ENTRY

    def _refuse_writing(self, flags: int) -> None:
        if not self._writable and flags & (os.O_ACCMODE | os.O_TRUNC) != os.O_RDONLY:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def _time(valid: int, asked: int, now: int, seconds: int, fraction: int) -> int | None:
    """Nanoseconds since the epoch, where a change is asked for."""
    if not valid & asked:
        return None
    if valid & now:
        import time

        return time.time_ns()
    if fraction >= 1_000_000_000:
        raise ProtocolError("a FUSE request for a time that is none")
    signed = seconds - (1 << 64) if seconds > _MAX_OFFSET else seconds
    return signed * 1_000_000_000 + fraction
