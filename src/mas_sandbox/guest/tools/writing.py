"""write_file and edit_file."""

from __future__ import annotations

from mas_sandbox.guest.place import shown

from . import ToolFailure
from .arguments import flag, only, text
from .reading import read_whole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files


def write_file(args: dict[str, Any], files: Files) -> dict[str, Any]:
    only(args, "path", "content", "create_dirs")
    path = text(args, "path")
    data = text(args, "content").encode()
    files.replace(path, data, create_dirs=flag(args, "create_dirs", True))
    return {"path": path, "bytes_written": len(data)}


def edit_file(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """Works on bytes, so that what is not replaced stays as it was to the bit."""
    only(args, "path", "old_text", "new_text", "replace_all")
    path = text(args, "path")
    old = text(args, "old_text").encode()
    new = text(args, "new_text").encode()
    replace_all = flag(args, "replace_all")
    if not old:
        raise ToolFailure("old_text is empty; use write_file for a new file", "invalid_request")
    if old == new:
        raise ToolFailure("old_text and new_text are the same", "invalid_request")
    data = read_whole(files, path)
    count = data.count(old)
    if count == 0:
        raise ToolFailure(f"old_text does not occur in {shown(path)}{_hint(data, old)}")
    if count > 1 and not replace_all:
        raise ToolFailure(
            f"old_text occurs {count} times in {shown(path)}; add lines around it until it is "
            "unique, or set replace_all"
        )
    files.replace(path, data.replace(old, new))
    return {"path": path, "replacements": count}


def _hint(data: bytes, old: bytes) -> str:
    if b"\r\n" in data and old.replace(b"\n", b"\r\n") in data:
        return ": its lines end in \\r\\n"
    return "; it must match exactly, spaces and line ends too: read the file again"
