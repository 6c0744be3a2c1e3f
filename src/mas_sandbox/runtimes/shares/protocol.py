"""FUSE as bytes: the kernel's include/uapi/linux/fuse.h, protocol 7.31 and later.

A guest writes the requests, so every length is checked before anything is read by it.
All integers are in the machine's own order; guest and host are of one architecture.
"""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum

from mas_sandbox.wire.frames import ProtocolError

MAJOR, MINOR, OLDEST_MINOR = 7, 36, 31
MAX_DATA = 1024 * 1024
"""Bytes of one READ or WRITE."""
MAX_REQUEST = MAX_DATA + 4096
VALID_NS = 750_000_000
"""How long a guest may go on with what it was told of a name or a file: less than a second."""
ROOT = 1
"""The node that is the shared directory itself."""
GUEST_USER, NOBODY = 1000, 65534

_IN_HEADER = struct.Struct("=IIQQIIIHH")
_OUT_HEADER = struct.Struct("=IiQ")
_ATTRIBUTES = struct.Struct("=6Q10I")
_ENTRY = struct.Struct("=4Q2I")
_ATTRIBUTES_OUT = struct.Struct("=Q2I")
_INIT_OUT = struct.Struct("=4I2H2I2H8I")
_STATFS_OUT = struct.Struct("=5Q4I24x")
_DIRENT = struct.Struct("=2Q2I")
NO_ENTRY = bytes(_ENTRY.size + _ATTRIBUTES.size)
HEADER_BYTES = _IN_HEADER.size


class Op(IntEnum):
    """enum fuse_opcode: those that are answered with more than ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47


UNANSWERED = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
CHANGING = frozenset(
    {
        *(Op.SETATTR, Op.SYMLINK, Op.MKNOD, Op.MKDIR, Op.UNLINK, Op.RMDIR, Op.RENAME),
        *(Op.LINK, Op.WRITE, Op.CREATE, Op.FALLOCATE, Op.RENAME2, Op.COPY_FILE_RANGE),
    }
)
"""What a read-only share refuses."""

_ASYNC_READ, _BIG_WRITES, _AUTO_INVAL_DATA = 1 << 0, 1 << 5, 1 << 12
_DO_READDIRPLUS, _READDIRPLUS_AUTO, _PARALLEL_DIROPS = 1 << 13, 1 << 14, 1 << 18
_MAX_PAGES = 1 << 22
_WANTED = (_ASYNC_READ | _BIG_WRITES | _AUTO_INVAL_DATA | _DO_READDIRPLUS | _READDIRPLUS_AUTO) | (
    _PARALLEL_DIROPS | _MAX_PAGES
)
"""Not the writeback cache: what a guest has written is on the host when write(2) returns."""


@dataclass(frozen=True, slots=True)
class Request:
    """`op` is the bare number where it is none that we answer."""

    op: Op | int
    unique: int
    node: int
    body: bytes

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        """A body of exactly this layout. Raises ProtocolError."""
        if len(self.body) != layout.size:
            raise self.malformed()
        return layout.unpack(self.body)

    def unpack_names(
        self, layout: struct.Struct, count: int
    ) -> tuple[tuple[int, ...], list[bytes]]:
        """This layout, then so many NUL-terminated strings. Raises ProtocolError."""
        names = self.body[layout.size :].split(b"\0")
        if len(self.body) < layout.size or len(names) != count + 1 or names.pop():
            raise self.malformed()
        return layout.unpack_from(self.body), names

    def malformed(self) -> ProtocolError:
        name = self.op.name if isinstance(self.op, Op) else self.op
        return ProtocolError(f"a malformed FUSE request ({name}, {len(self.body)} bytes)")


NOTHING = struct.Struct("")
INIT = struct.Struct("=4I")
GETATTR = struct.Struct("=2IQ")
SETATTR = struct.Struct("=2I6Q8I")
MKNOD = struct.Struct("=4I")
MKDIR = struct.Struct("=2I")
RENAME = struct.Struct("=Q")
RENAME2 = struct.Struct("=Q2I")
LINK = struct.Struct("=Q")
OPEN = struct.Struct("=2I")
CREATE = struct.Struct("=4I")
READ = struct.Struct("=2Q2IQ2I")
WRITE = struct.Struct("=2Q2IQ2I")
RELEASE = struct.Struct("=Q2IQ")
FSYNC = struct.Struct("=Q2I")
FORGET = struct.Struct("=Q")
BATCH_FORGET = struct.Struct("=2I")
FORGET_ONE = struct.Struct("=2Q")
FALLOCATE = struct.Struct("=3Q2I")
LSEEK = struct.Struct("=2Q2I")
OPENED = struct.Struct("=Q2I")
WRITTEN = struct.Struct("=2I")
SOUGHT = struct.Struct("=Q")
COPY_FILE_RANGE = struct.Struct("=7Q")


def take_request(buffer: bytearray) -> Request | None:
    """Cut the first whole request off the buffer; None while it is not there yet.

    Raises ProtocolError for a length that no request has.
    """
    if len(buffer) < HEADER_BYTES:
        return None
    length, number, unique, node, *_ = _IN_HEADER.unpack_from(buffer)
    if not HEADER_BYTES <= length <= MAX_REQUEST:
        raise ProtocolError(f"a FUSE request of {length} bytes")
    if len(buffer) < length:
        return None
    body = bytes(memoryview(buffer)[HEADER_BYTES:length])
    del buffer[:length]
    try:
        op: Op | int = Op(number)
    except ValueError:
        op = number
    return Request(op, unique, node, body)


def reply(unique: int, payload: bytes = b"") -> bytes:
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(payload), 0, unique) + payload


def error_reply(unique: int, error: int) -> bytes:
    """`error`: an errno."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, -error, unique)


def init_reply(request: Request) -> bytes:
    """What both ends will do. Raises ProtocolError for a kernel that is too old."""
    if len(request.body) < INIT.size:
        raise request.malformed()
    major, minor, read_ahead, flags = INIT.unpack_from(request.body)
    if major != MAJOR or minor < OLDEST_MINOR:
        raise ProtocolError(f"FUSE {major}.{minor}; it needs {MAJOR}.{OLDEST_MINOR}")
    pages = MAX_DATA // 4096
    in_background = (16, 12)  # the most, and when to call the device congested
    return _INIT_OUT.pack(
        *(MAJOR, min(minor, MINOR), read_ahead, flags & _WANTED, *in_background),
        *(MAX_DATA, 1, pages, 0, *[0] * 8),
    )


class Attributes:
    """What a guest is told of a file: `owner` and `group`, the share's on the host, are its
    own user, and everybody else is nobody."""

    def __init__(self, owner: int, group: int) -> None:
        self._owner = owner
        self._group = group

    def pack(self, status: os.stat_result) -> bytes:
        """struct fuse_attr. Setuid and setgid mean nothing inside and are not shown."""
        return _ATTRIBUTES.pack(
            *(status.st_ino, status.st_size, status.st_blocks),
            *(_seconds(ns) for ns in _times(status)),
            *(ns % 1_000_000_000 for ns in _times(status)),
            status.st_mode & ~(stat.S_ISUID | stat.S_ISGID),
            status.st_nlink,
            GUEST_USER if status.st_uid == self._owner else NOBODY,
            GUEST_USER if status.st_gid == self._group else NOBODY,
            *(0, status.st_blksize, 0),
        )

    def reply(self, status: os.stat_result) -> bytes:
        return _ATTRIBUTES_OUT.pack(0, VALID_NS, 0) + self.pack(status)

    def entry(self, node: int, status: os.stat_result) -> bytes:
        """struct fuse_entry_out."""
        return _ENTRY.pack(node, 0, 0, 0, VALID_NS, VALID_NS) + self.pack(status)


def directory_entry(inode: int, following: int, kind: int, name: bytes) -> bytes:
    """struct fuse_dirent. `following`: where the next one is read from; `kind`: DT_*."""
    packed = _DIRENT.pack(inode, following, len(name), kind) + name
    return packed + bytes(-len(packed) % 8)


def statfs(status: os.statvfs_result) -> bytes:
    return _STATFS_OUT.pack(
        *(status.f_blocks, status.f_bfree, status.f_bavail, status.f_files, status.f_ffree),
        *(status.f_bsize, status.f_namemax, status.f_frsize, 0),
    )


def _times(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns


def _seconds(ns: int) -> int:
    return (ns // 1_000_000_000) % (1 << 64)
