"""sandbox.stat, list, mkdir, move and remove."""

from __future__ import annotations

import os

from mas_sandbox.guest.beneath import link_target
from mas_sandbox.guest.tools.arguments import flag, integer, only, text
from mas_sandbox.guest.tools.tree import MAX_DEPTH, Budget, Found, joined, walk

from .entry import entry, text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_ENTRIES = 10_000


def stat_entry(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path} -> the entry; of a symbolic link itself."""
    only(args, "path")
    return _entry(files, text(args, "path"))


def list_entries(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path, depth = 1, limit = 1000} -> {entries, truncated}: each directory before what
    it holds, by name; no symbolic link is followed."""
    only(args, "path", "depth", "limit")
    path = text(args, "path")
    depth = integer(args, "depth", 1, 1, MAX_DEPTH)
    limit = integer(args, "limit", 1000, 1, MAX_ENTRIES)
    base = files.absolute(path)
    budget = Budget()
    entries: list[dict[str, Any]] = []
    directory = files.open_directory(path)
    try:
        for found in walk(directory, _one_deeper, depth, budget):
            if len(entries) == limit:
                return {"entries": entries, "truncated": True}
            try:
                entries.append(_found(base, found))
            except FileNotFoundError:
                continue  # gone since it was seen
    finally:
        os.close(directory)
    return {"entries": entries, "truncated": budget.exhausted}


def mkdir(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path, parents = false} -> the entry, and `created`. With `parents` those above it
    are made where they are missing, and it may be there already."""
    only(args, "path", "parents")
    path = text(args, "path")
    created = files.make_directory(path, flag(args, "parents"))
    return _entry(files, f"{path}/") | {"created": created}


def move(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{source, destination, overwrite = false} -> the entry it has become. `destination`
    is its whole new path; a directory gives way only when it is empty."""
    only(args, "source", "destination", "overwrite")
    destination = text(args, "destination")
    files.move(text(args, "source"), destination, flag(args, "overwrite"))
    return _entry(files, destination.rstrip("/"))


def remove(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path, recursive = false} -> {path}. A symbolic link is removed, never its target."""
    only(args, "path", "recursive")
    path = text(args, "path")
    files.remove(path, flag(args, "recursive"))
    return {"path": text_of(files.absolute(path))}


def _entry(files: Files, path: str) -> dict[str, Any]:
    return entry(files.absolute(path), *files.status(path))


def _found(base: str, found: Found) -> dict[str, Any]:
    status = found.entry.stat(follow_symlinks=False)
    target = link_target(found.directory, found.entry.name) if found.entry.is_symlink() else None
    return entry(joined(base, found.path), status, target)


def _one_deeper(left: int, name: str) -> tuple[bool, int | None]:
    return True, left - 1 if left > 1 else None
