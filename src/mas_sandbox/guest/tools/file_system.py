"""file_system: one tool for four actions, as agents of the Go MAS library call it."""

from __future__ import annotations

from . import ToolFailure
from .arguments import flag, only, text
from .listing import MAX_DEPTH, listed
from .reading import binary, looks_binary, read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files


def file_system(args: dict[str, Any], files: Files) -> str | dict[str, Any]:
    """Arguments that an action has no use for are accepted: callers of this shape send
    them all."""
    only(args, "action", "path", "content", "append", "recursive")
    path = text(args, "path")
    recursive = flag(args, "recursive")
    append = flag(args, "append")
    match text(args, "action"):
        case "read":
            return _read(files, path)
        case "write":
            return _write(files, path, text(args, "content").encode(), append)
        case "list":
            entries, truncated = listed(files, path, MAX_DEPTH if recursive else 1)
            return {"path": path, "entries": entries, "truncated": truncated}
        case "delete":
            files.remove(path, recursive)
            return {"deleted": path}
        case other:
            raise ToolFailure(
                f"action {other[:40]!r} is not one of read, write, list, delete", "invalid_request"
            )


def _read(files: Files, path: str) -> str:
    data = read_whole(files, path)
    if looks_binary(data):
        raise binary(path, len(data))
    return data.decode("utf-8", "replace")


def _write(files: Files, path: str, data: bytes, append: bool) -> dict[str, Any]:
    if append:
        files.append(path, data, create_dirs=True)
    else:
        files.replace(path, data, create_dirs=True)
    return {"path": path, "bytes_written": len(data)}
