"""inotify(7): what happens in directories, as the kernel tells it."""

from __future__ import annotations

import os
import struct

from mas_sandbox.guest import libc

MODIFY, ATTRIB = 0x2, 0x4
MOVED_FROM, MOVED_TO = 0x40, 0x80
CREATE, DELETE = 0x100, 0x200
DELETE_SELF, MOVE_SELF = 0x400, 0x800
UNMOUNT, OVERFLOW, IGNORED = 0x2000, 0x4000, 0x8000
IS_DIRECTORY = 0x40000000
_ONLY_DIRECTORY, _NOT_UNLINKED = 0x01000000, 0x04000000
_WANTED = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_EVENT = struct.Struct("iIII")  # watch, mask, cookie, length of the name that follows
_BUFFER = 64 * 1024


class Event:
    """`watch`: of the directory; `cookie`: the same in both halves of a rename; `name`:
    empty where it is the directory's own."""

    __slots__ = ("cookie", "mask", "name", "watch")

    def __init__(self, watch: int, mask: int, cookie: int, name: str) -> None:
        self.watch = watch
        self.mask = mask
        self.cookie = cookie
        self.name = name


class Inotify:
    """Making and adding raise OSError: ENOSPC where the kernel gives no more watches, EMFILE no
    more instances, ENOSYS where there is no inotify."""

    def __init__(self) -> None:
        self.descriptor = libc.call("inotify_init1", os.O_CLOEXEC)

    def add(self, directory: int) -> int:
        """Watch a directory. The same number as before for one that is watched already.

        By its descriptor, so that what is watched is what was opened; the process is in
        `/` afterwards.
        """
        os.fchdir(directory)
        try:
            mask = _WANTED | _ONLY_DIRECTORY | _NOT_UNLINKED
            return libc.call("inotify_add_watch", self.descriptor, b".", mask)
        finally:
            os.chdir("/")  # a directory that somebody is in is not seen to go

    def forget(self, watch: int) -> None:
        try:  # noqa: SIM105  # contextlib would be an import
            libc.call("inotify_rm_watch", self.descriptor, watch)
        except OSError:
            pass  # its directory is gone, and the watch with it

    def read(self) -> list[Event]:
        """At least one event; waits for it."""
        data = os.read(self.descriptor, _BUFFER)
        events = []
        at = 0
        while at < len(data):
            watch, mask, cookie, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size
            name = os.fsdecode(data[at : at + length].rstrip(b"\0"))
            events.append(Event(watch, mask, cookie, name))
            at += length
        return events

    def close(self) -> None:
        os.close(self.descriptor)
