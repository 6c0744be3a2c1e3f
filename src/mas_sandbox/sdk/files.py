"""`sandbox.files`: the files of a sandbox."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

from mas_sandbox.api.live import Entry, Unpacked, Watching

from .asked import files as asked
from .errors import FileNotFound, NotADirectory, OutputLimit, error_of
from .events import FILES
from .stream import Stream

if TYPE_CHECKING:
    from typing import Literal

    from mas_sandbox.api.live import FileChange, Overflow

    from .connection import Connection


class Files:
    """The files of one sandbox. Paths are absolute, or beneath `/workspace`.

    Methods raise `FileError` for what the file system says (`FileNotFound`, `FileExists`,
    `IsADirectory`, `NotADirectory`, `DirectoryNotEmpty`, `FileForbidden`, `NoSpace`,
    `TooLarge`), and any other `CallError`.
    """

    def __init__(self, connection: Connection, sandbox_id: str) -> None:
        self._connection = connection
        self._sandbox_id = sandbox_id

    def read(self, path: str) -> bytes:
        """The content of a file."""
        return b"".join(self.stream(path))

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        """The content of a file as text; raises UnicodeDecodeError where it is none."""
        return self.read(path).decode(encoding)

    def stream(self, path: str) -> Stream[bytes]:
        """The content of a file, piece by piece."""
        return Stream(self._connection.pieces(asked.content_path(self._sandbox_id, path)))

    def write(
        self,
        path: str,
        data: bytes | str | BinaryIO | Iterable[bytes],
        *,
        mode: int | None = None,
        parents: bool = True,
    ) -> Entry:
        """Write a whole file, which others see as it was or as it is, never in between.

        `data`: its content, an open file, or pieces of it, which are sent as they are read;
        `mode`: permissions, those of the file that is there, else 0o644, where it is missing;
        `parents`: make missing directories.
        """
        place = asked.upload_path(self._sandbox_id, path, mode, parents)
        if isinstance(data, (bytes, str)):
            return self._connection.ask(asked.written(place, asked.as_bytes(data)))
        return self._connection.upload(place, Entry, asked.pieces_of(data))

    def write_many(
        self, files: Mapping[str, bytes | str], *, mode: int | None = None
    ) -> tuple[Entry, ...]:
        """Write files, path to content, with few requests. Missing directories are made.

        Each is there wholly or not at all. Raises for the first that cannot be written, when
        all that can be written are.
        """
        large = {path: data for path, data in files.items() if not asked.fits(data)}
        small = {path: data for path, data in files.items() if path not in large}
        written = [
            file
            for request in asked.many(self._sandbox_id, small, mode)
            for file in self._connection.ask(request).files
        ]
        entries = {file.path: file.entry for file in written if file.entry is not None}
        entries |= {path: self.write(path, data, mode=mode) for path, data in large.items()}
        for file in written:
            if file.error is not None:
                raise error_of(file.error)
        return tuple(entries[path] for path in files)

    def stat(self, path: str) -> Entry:
        """What lies at a path; of a symbolic link, the link."""
        return self._connection.ask(asked.stat(self._sandbox_id, path))

    def exists(self, path: str) -> bool:
        """Whether anything lies at a path."""
        try:
            self.stat(path)
        except (FileNotFound, NotADirectory):
            return False
        return True

    def list(self, path: str = ".", depth: int = 1) -> tuple[Entry, ...]:
        """What a directory holds, by name; with a greater `depth`, what its directories hold
        as well. No symbolic link is followed. Raises OutputLimit beyond 10,000 entries."""
        found = self._connection.ask(asked.listed(self._sandbox_id, path, depth))
        if found.truncated:
            raise OutputLimit(
                f"{path} holds more than {asked.MAX_ENTRIES} entries; list its parts, or less deep"
            )
        return found.entries

    def mkdir(self, path: str, *, parents: bool = True) -> Entry:
        """Make a directory; with `parents`, those above it, and be content if it is there."""
        return self._connection.ask(asked.made(self._sandbox_id, path, parents))

    def move(self, source: str, destination: str, *, overwrite: bool = False) -> Entry:
        """Move or rename; `destination` is the whole new path."""
        return self._connection.ask(asked.moved(self._sandbox_id, source, destination, overwrite))

    def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, a link (never what it leads to) or an empty directory; with
        `recursive`, a directory and all it holds."""
        self._connection.ask(asked.removed(self._sandbox_id, path, recursive))

    def watch(self, path: str = ".", recursive: bool = False) -> Stream[FileChange | Overflow]:
        """What happens to the files of a directory from now on, as it happens.

        `FileChange`: `type` is `created`, `modified`, `removed` or `moved` (`to`); `Overflow`:
        more has happened than could be told, look again.
        """
        return Stream(self._watching(asked.watch_path(self._sandbox_id, path, recursive)))

    def download_archive(self, path: str = ".") -> Stream[bytes]:
        """A directory and all it holds, as the pieces of a tar archive."""
        return Stream(self._connection.pieces(asked.archive_path(self._sandbox_id, path)))

    def upload_archive(self, path: str, data: bytes | BinaryIO | Iterable[bytes]) -> Unpacked:
        """Unpack a tar archive, which may be gzipped, beneath a directory that is there."""
        if isinstance(data, bytes):
            return self._connection.ask(asked.unpacked(self._sandbox_id, path, data))
        place = asked.archive_path(self._sandbox_id, path)
        return self._connection.upload(place, Unpacked, asked.pieces_of(data))

    def sign(self, path: str, method: Literal["GET", "PUT"] = "GET", expires_s: int = 3600) -> str:
        """A URL that needs no token, to read this file or to write it, for so many seconds."""
        signed = self._connection.ask(asked.signed(self._sandbox_id, path, method, expires_s))
        return self._connection.url + signed.url

    @contextmanager
    def _watching(self, path: str) -> Iterator[Iterator[FileChange | Overflow]]:
        with self._connection.events("GET", path, FILES) as events:
            next(events)  # says that it has begun
            yield (event for event in events if not isinstance(event, Watching))
