"""list_dir, and what file_system's `list` shares with it."""

from __future__ import annotations

import os

from .arguments import integer, only, text
from .tree import Budget, Found, kind, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_ENTRIES = 1000
MAX_DEPTH = 20


def list_dir(args: dict[str, Any], files: Files) -> dict[str, Any]:
    only(args, "path", "depth")
    path = text(args, "path", ".")
    depth = integer(args, "depth", 1, 1, MAX_DEPTH)
    entries, truncated = listed(files, path, depth)
    return {"path": path, "entries": entries, "truncated": truncated}


def listed(files: Files, path: str, depth: int) -> tuple[list[dict[str, Any]], bool]:
    """Entries of a directory, and whether there are more than the bounds let through.

    An entry: name (relative to `path`), type, size in bytes, mtime in Unix seconds.
    """
    budget = Budget()
    entries: list[dict[str, Any]] = []
    directory = files.open_directory(path)
    try:
        for found in walk(directory, _one_deeper, depth, budget):
            if len(entries) == MAX_ENTRIES:
                return entries, True
            try:
                entries.append(_described(found))
            except FileNotFoundError:
                continue  # gone since it was seen
    finally:
        os.close(directory)
    return entries, budget.exhausted


def _one_deeper(left: int, name: str) -> tuple[bool, int | None]:
    return True, left - 1 if left > 1 else None


def _described(found: Found) -> dict[str, Any]:
    status = found.entry.stat(follow_symlinks=False)
    return {
        "name": found.shown,
        "type": kind(status.st_mode),
        "size": status.st_size,
        "mtime": int(status.st_mtime),
    }
