"""One entry of a directory, as JSON has it."""

from __future__ import annotations

import os
import stat

from mas_sandbox.guest.tools.tree import kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def entry(path: str, status: os.stat_result, target: str | None = None) -> dict[str, Any]:
    """`path`: absolute; `type`: file, directory, symlink or other; `size` in bytes; `mode`:
    the permissions; `modified_ms`: Unix time; `target`: what a symbolic link holds."""
    shown = text_of(path)
    described = {
        "path": shown,
        "name": shown.rpartition("/")[2] or "/",
        "type": kind(status.st_mode),
        "size": status.st_size,
        "mode": stat.S_IMODE(status.st_mode),
        "modified_ms": status.st_mtime_ns // 1_000_000,
    }
    return described if target is None else described | {"target": text_of(target)}


def text_of(name: str) -> str:
    """A name as text that JSON can carry: bytes that are not UTF-8 become `\\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
