"""A guest's kernel as a file server sees it: FUSE requests of its own making, 7.36.

It follows the kernel's include/uapi/linux/fuse.h, with layouts of its own, so that a
mistake in the server's is not made twice.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from mas_sandbox.runtimes.shares.operations import Operations
from mas_sandbox.runtimes.shares.protocol import take_request

LOOKUP, FORGET, GETATTR, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR = 1, 2, 3, 4, 5, 6, 8, 9
UNLINK, RMDIR, RENAME, LINK, OPEN, READ, WRITE, STATFS, RELEASE = 10, 11, 12, 13, 14, 15, 16, 17, 18
FSYNC, GETXATTR, INIT, OPENDIR, READDIR, RELEASEDIR = 20, 22, 26, 27, 28, 29
CREATE, INTERRUPT, BATCH_FORGET, FALLOCATE, READDIRPLUS = 35, 36, 42, 43, 44
RENAME2, LSEEK, COPY_FILE_RANGE = 45, 46, 47


def message(op: int, node: int = 1, body: bytes = b"", unique: int = 7) -> bytes:
    header = struct.pack("=IIQQIIIHH", 40 + len(body), op, unique, node, 1000, 1000, 9, 0, 0)
    return header + body


@dataclass(frozen=True)
class Attributes:
    inode: int
    size: int
    modified: int
    mode: int
    links: int
    user: int
    group: int

    @classmethod
    def read(cls, packed: bytes) -> Attributes:
        ino, size, _, _, mtime, _, _, _, _, mode, nlink, uid, gid, *_ = struct.unpack(
            "=6Q10I", packed[:88]
        )
        return cls(ino, size, mtime, mode, nlink, uid, gid)


class FuseGuest:
    """Asks, and raises the OSError that the answer is."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def ask(self, op: int, node: int = 1, body: bytes = b"") -> bytes:
        buffer = bytearray(message(op, node, body))
        request = take_request(buffer)
        assert request is not None
        assert not buffer
        answer = self._operations.answer(request)
        if not answer:
            return b""
        length, error, unique = struct.unpack_from("=IiQ", answer)
        assert (length, unique) == (len(answer), 7)
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[16:]

    def look_up(self, path: str, start: int = 1) -> int:
        node = start
        for name in path.split("/"):
            node = self.entry(LOOKUP, node, name.encode() + b"\0")[0]
        return node

    def entry(self, op: int, node: int, body: bytes) -> tuple[int, Attributes]:
        answer = self.ask(op, node, body)
        return struct.unpack_from("=Q", answer)[0], Attributes.read(answer[40:])

    def attributes(self, node: int) -> Attributes:
        return Attributes.read(self.ask(GETATTR, node, struct.pack("=IIQ", 0, 0, 0))[16:])

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        return self._handle(self.ask(OPEN, node, struct.pack("=II", flags, 0)))

    def create(self, name: str, flags: int = os.O_RDWR, mode: int = 0o644, node: int = 1) -> int:
        body = struct.pack("=IIII", flags | os.O_CREAT, mode, 0, 0) + name.encode() + b"\0"
        return self._handle(self.ask(CREATE, node, body)[128:])

    def open_directory(self, node: int = 1) -> int:
        return self._handle(self.ask(OPENDIR, node, struct.pack("=II", 0, 0)))

    def read(self, handle: int, size: int = 65536, offset: int = 0) -> bytes:
        return self.ask(READ, 1, struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0))

    def write(self, handle: int, data: bytes, offset: int = 0) -> int:
        body = struct.pack("=QQIIQII", handle, offset, len(data), 0, 0, 0, 0) + data
        count: int = struct.unpack("=II", self.ask(WRITE, 1, body))[0]
        return count

    def release(self, handle: int) -> None:
        self.ask(RELEASE, 1, struct.pack("=QIIQ", handle, 0, 0, 0))

    def forget(self, node: int, lookups: int = 1) -> None:
        self.ask(FORGET, node, struct.pack("=Q", lookups))

    def set(self, node: int, valid: int, *, size: int = 0, mode: int = 0, user: int = 0) -> None:
        body = struct.pack("=II6Q8I", valid, 0, 0, size, 0, 1, 1, 1, 0, 0, 0, mode, 0, user, 0, 0)
        self.ask(SETATTR, node, body)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        names = old.encode() + b"\0" + new.encode() + b"\0"
        self.ask(RENAME2, 1, struct.pack("=QII", 1, flags, 0) + names)

    def list(self, node: int = 1, size: int = 4096) -> dict[str, int]:
        """Name -> node, by READDIRPLUS, as many requests as it takes."""
        handle = self.open_directory(node)
        found: dict[str, int] = {}
        offset = 0
        while True:
            body = struct.pack("=QQIIQII", handle, offset, size, 0, 0, 0, 0)
            answer = self.ask(READDIRPLUS, node, body)
            if not answer:
                break
            assert len(answer) <= size
            position = 0
            while position < len(answer):
                (number,) = struct.unpack_from("=Q", answer, position)
                _, offset, length, _ = struct.unpack_from("=QQII", answer, position + 128)
                name = answer[position + 152 : position + 152 + length].decode()
                assert name not in found
                found[name] = number
                position += 128 + -(-(24 + length) // 8) * 8
        self.ask(RELEASEDIR, node, struct.pack("=QIIQ", handle, 0, 0, 0))
        return found

    def error(self, op: int, node: int = 1, body: bytes = b"") -> str:
        """The name of the errno that a request is answered with."""
        try:
            self.ask(op, node, body)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return ""

    @staticmethod
    def _handle(opened: bytes) -> int:
        handle: int = struct.unpack("=QII", opened)[0]
        return handle
