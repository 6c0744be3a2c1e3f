"""Requests for the files of a sandbox."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from mas_sandbox.api.live import Entry, EntryList, RemovedFile, SignedUrl, Unpacked, WrittenFiles

from . import Asked, query, sandbox_path

if TYPE_CHECKING:
    from typing import Literal

PIECE = 256 * 1024
MAX_ENTRIES = 10_000
MAX_BATCH = 256
MAX_BATCH_BYTES = 512 * 1024
"""Of what is written with one request: in base64 it stays below the daemon's bound."""


def files_path(sandbox_id: str, action: str = "") -> str:
    place = sandbox_path(sandbox_id, "files")
    return f"{place}/{action}" if action else place


def content_path(sandbox_id: str, path: str) -> str:
    """Where the bytes of a file are."""
    return query(files_path(sandbox_id), path=path)


def upload_path(sandbox_id: str, path: str, mode: int | None, parents: bool) -> str:
    """Where the bytes of a file go.

    >>> upload_path("sb_1", "/workspace/run", 0o755, True)
    '/v1/sandboxes/sb_1/files?path=%2Fworkspace%2Frun&mode=0755&parents=true'
    """
    octal = None if mode is None else f"{mode:04o}"
    return query(files_path(sandbox_id), path=path, mode=octal, parents=parents)


def archive_path(sandbox_id: str, path: str) -> str:
    return query(files_path(sandbox_id, "archive"), path=path)


def watch_path(sandbox_id: str, path: str, recursive: bool) -> str:
    return query(files_path(sandbox_id, "watch"), path=path, recursive=recursive)


def written(path: str, content: bytes) -> Asked[Entry]:
    return Asked("PUT", path, Entry, content)


def unpacked(sandbox_id: str, path: str, content: bytes) -> Asked[Unpacked]:
    return Asked("PUT", archive_path(sandbox_id, path), Unpacked, content)


def many(
    sandbox_id: str, files: Mapping[str, bytes | str], mode: int | None
) -> Iterator[Asked[WrittenFiles]]:
    """As few requests as they fit into."""
    batch: list[dict[str, Any]] = []
    size = 0
    for path, content in files.items():
        data = as_bytes(content)
        if batch and (size + len(data) > MAX_BATCH_BYTES or len(batch) == MAX_BATCH):
            yield _batch(sandbox_id, batch)
            batch, size = [], 0
        file: dict[str, Any] = {"path": path, "data": b64encode(data).decode()}
        batch.append(file if mode is None else file | {"mode": mode})
        size += len(data)
    if batch:
        yield _batch(sandbox_id, batch)


def fits(content: bytes | str) -> bool:
    """Whether it may be one of many."""
    return len(as_bytes(content)) <= MAX_BATCH_BYTES


def _batch(sandbox_id: str, files: list[dict[str, Any]]) -> Asked[WrittenFiles]:
    return Asked("POST", files_path(sandbox_id), WrittenFiles, {"files": files})


def stat(sandbox_id: str, path: str) -> Asked[Entry]:
    return Asked("GET", query(files_path(sandbox_id, "stat"), path=path), Entry)


def listed(sandbox_id: str, path: str, depth: int) -> Asked[EntryList]:
    place = files_path(sandbox_id, "list")
    return Asked("GET", query(place, path=path, depth=depth, limit=MAX_ENTRIES), EntryList)


def made(sandbox_id: str, path: str, parents: bool) -> Asked[Entry]:
    body = {"path": path, "parents": parents}
    return Asked("POST", files_path(sandbox_id, "mkdir"), Entry, body)


def moved(sandbox_id: str, source: str, destination: str, overwrite: bool) -> Asked[Entry]:
    body = {"source": source, "destination": destination, "overwrite": overwrite}
    return Asked("POST", files_path(sandbox_id, "move"), Entry, body)


def removed(sandbox_id: str, path: str, recursive: bool) -> Asked[RemovedFile]:
    place = query(files_path(sandbox_id), path=path, recursive=recursive)
    return Asked("DELETE", place, RemovedFile)


def signed(
    sandbox_id: str, path: str, method: Literal["GET", "PUT"], expires_s: int
) -> Asked[SignedUrl]:
    body = {"path": path, "method": method, "expires_s": expires_s}
    return Asked("POST", files_path(sandbox_id, "sign"), SignedUrl, body)


def as_bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


def pieces_of(data: BinaryIO | Iterable[bytes]) -> Iterator[bytes]:
    """What is read from a file, or comes from an iterator, as pieces of some size."""
    if hasattr(data, "read"):
        while piece := data.read(PIECE):
            yield piece
    else:
        yield from data
