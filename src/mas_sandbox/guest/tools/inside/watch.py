"""sandbox.watch: what changes in a directory, as lines of JSON."""

from __future__ import annotations

import errno
import os
import select
import time

from mas_sandbox.guest.beneath import open_beneath
from mas_sandbox.guest.changes import write_all
from mas_sandbox.guest.place import shown
from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.arguments import flag, only, text
from mas_sandbox.guest.tools.tree import joined
from mas_sandbox.wire import strict_json

from . import inotify
from .batch import Batch
from .entry import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

    from .inotify import Event

MAX_DIRECTORIES = 8192
"""Each costs the kernel about a kilobyte."""
MAX_BATCH = 4096
WINDOW_SECONDS = 0.05
"""How long events are collected after the first."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY


def watch(args: dict[str, Any], files: Files) -> dict[str, str]:
    """{path, recursive = false} -> {"event", "path", "to"?} on standard output, one to a
    line, until the call is cancelled, or the directory goes: then {path}.

    `event`: `watching` once, first: what comes after is seen; `created`, `modified` (content
    or attributes), `removed`, `moved` with `to`; `overflow`: events were lost, so look
    again. Paths are absolute. What a new directory holds before it is watched is told as
    created. Raises ToolFailure, `too_large`, over `MAX_DIRECTORIES`.

    A directory of the host's that is mounted tells of what is done in this sandbox: under
    gVisor and in a virtual machine the host's own changes raise no events.
    """
    only(args, "path", "recursive")
    path = text(args, "path")
    watched = _Watched(files, path, flag(args, "recursive"))
    _tell([{"event": "watching", "path": watched.base}])
    while watched.alive:
        batch = Batch()
        watched.take(batch)
        until = time.monotonic() + WINDOW_SECONDS
        while watched.alive and len(batch.events) < MAX_BATCH:
            left = until - time.monotonic()
            if left <= 0 or not watched.wait(left):
                break
            watched.take(batch)
        watched.forget_moved()
        _tell(batch.events)
    return {"path": watched.base}


def _tell(events: list[dict[str, str]]) -> None:
    if events:
        write_all(1, b"".join(strict_json.dumps(event) + b"\n" for event in events))


class _Watched:
    """The directories that are watched. `base`: the path of the first, absolute; the others
    are relative to it, as `joined` has them. `alive`: until the first one goes.

    It keeps no directory open: one that is open is not seen to go.
    """

    def __init__(self, files: Files, path: str, recursive: bool) -> None:
        self.alive = True
        self.base = text_of(files.absolute(path))
        self._files = files
        self._path = files.absolute(path)
        self._recursive = recursive
        self._identity: tuple[int, int] | None = None
        self._paths: dict[int, str] = {}
        self._moving: dict[int, tuple[str, dict[int, str]]] = {}
        # Seen in a new directory; of some the event is still to come.
        self._foretold: set[str] = set()
        self._start()

    def take(self, batch: Batch) -> None:
        """Wait for events, and add them."""
        if not self.wait(0):
            self._foretold.clear()  # every event of what was there then has come
        for event in self.inotify.read():
            if event.mask & inotify.OVERFLOW:
                self._start_again(batch)
                return
            if self.alive and event.watch in self._paths:
                self._take(event, batch)

    def wait(self, seconds: float) -> bool:
        """Whether there are events within this time."""
        return bool(select.select([self.inotify.descriptor], [], [], seconds)[0])

    def forget_moved(self) -> None:
        """Watch no longer the directories that went to where they cannot be seen."""
        for _, watches in self._moving.values():
            for watch in watches:
                self.inotify.forget(watch)
        self._moving.clear()

    def _start(self) -> None:
        try:
            self.inotify = inotify.Inotify()
        except OSError as error:
            raise _unwatchable(self._path, error) from error
        self._cover("", None)

    def _start_again(self, batch: Batch) -> None:
        """What was lost may have been of directories, so all of them are looked for."""
        self.inotify.close()
        self._paths.clear()
        self._moving.clear()
        batch.add("overflow", self._path)
        self._start()
        if not self._paths:
            self._end(batch)

    def _take(self, event: Event, batch: Batch) -> None:
        relative = self._paths[event.watch]
        if not event.name:
            self._take_own(event, relative, batch)
            return
        name = f"{relative}/{event.name}" if relative else event.name
        path = joined(self._path, name)
        if event.mask & inotify.CREATE:
            self._created(path, batch)
        elif event.mask & inotify.DELETE:
            batch.add("removed", path)
        elif event.mask & inotify.MOVED_FROM:
            batch.moved_from(event.cookie, path)
            if event.mask & inotify.IS_DIRECTORY:
                self._moving[event.cookie] = name, self._taken_out(name)
        elif event.mask & inotify.MOVED_TO:
            if not batch.moved_to(event.cookie, path):
                self._created(path, batch)
            self._put_back(event, name)
        else:
            batch.add("modified", path)
        arrived = event.mask & (inotify.CREATE | inotify.MOVED_TO)
        if arrived and event.mask & inotify.IS_DIRECTORY and self._recursive:
            self._cover(name, batch)

    def _created(self, path: str, batch: Batch) -> None:
        if path in self._foretold:
            self._foretold.remove(path)
        else:
            batch.add("created", path)

    def _take_own(self, event: Event, relative: str, batch: Batch) -> None:
        ended = inotify.DELETE_SELF | inotify.MOVE_SELF | inotify.UNMOUNT
        if not relative and event.mask & ended:
            self._end(batch)
        elif event.mask & inotify.IGNORED:
            del self._paths[event.watch]

    def _end(self, batch: Batch) -> None:
        self.alive = False
        batch.add("removed", self._path)

    def _taken_out(self, top: str) -> dict[int, str]:
        """The watches of a directory and of all beneath it."""
        beneath = {
            watch: path for watch, path in self._paths.items() if f"{path}/".startswith(f"{top}/")
        }
        for watch in beneath:
            del self._paths[watch]
        return beneath

    def _put_back(self, event: Event, name: str) -> None:
        source, watches = self._moving.pop(event.cookie, ("", {}))
        for watch, path in watches.items():
            self._paths[watch] = name + path[len(source) :]

    def _cover(self, relative: str, batch: Batch | None) -> None:
        """Watch a directory and, where that is asked for, all beneath it. Add what was not
        watched holds to `batch`, where there is one. What goes meanwhile is passed over."""
        root = self._open_root()
        if root < 0:
            return
        try:
            pending = [relative]
            while pending:
                pending += self._cover_one(root, pending.pop(), batch)
        finally:
            os.close(root)

    def _open_root(self) -> int:
        """-1 where it is gone since: the event that says so is on its way."""
        try:
            root = self._files.open_directory(self._path)
        except ToolFailure:
            if self._identity is None:
                raise
            return -1
        status = os.fstat(root)
        identity = status.st_dev, status.st_ino
        if self._identity not in (None, identity):
            os.close(root)
            return -1
        self._identity = identity
        return root

    def _cover_one(self, root: int, relative: str, batch: Batch | None) -> list[str]:
        """The directories in it, which are to be covered too."""
        try:
            directory = open_beneath(root, relative or ".", _DIRECTORY, symlinks=False)
        except OSError:
            return []
        try:
            news = batch if self._add(directory, relative) else None
            return self._look(directory, relative, news) if self._recursive else []
        finally:
            os.close(directory)

    def _add(self, directory: int, relative: str) -> bool:
        """Whether it was not watched before."""
        try:
            watch = self.inotify.add(directory)
        except OSError as error:
            raise _unwatchable(self._path, error) from error
        new = watch not in self._paths
        self._paths[watch] = relative
        if len(self._paths) > MAX_DIRECTORIES:
            raise ToolFailure(
                f"{shown(self._path)} holds more than {MAX_DIRECTORIES} directories;"
                " watch a part of it",
                reason="too_large",
            )
        return new

    def _look(self, directory: int, relative: str, batch: Batch | None) -> list[str]:
        found = []
        with os.scandir(directory) as entries:
            for entry in entries:
                name = f"{relative}/{entry.name}" if relative else entry.name
                if batch is not None:
                    path = joined(self._path, name)
                    self._foretold.add(path)
                    batch.add("created", path)
                if entry.is_dir(follow_symlinks=False):
                    found.append(name)
        return found


def _unwatchable(path: str, error: OSError) -> ToolFailure:
    match error.errno:
        case errno.ENOSPC | errno.EMFILE:
            what = "the kernel gives no more watches; end others, or watch fewer directories"
            return ToolFailure(f"{shown(path)}: {what}", reason="no_space")
        case errno.ENOSYS:
            return ToolFailure(f"{shown(path)}: this kernel cannot watch directories")
        case number:
            return ToolFailure(f"{shown(path)}: {os.strerror(number or 0)}")
