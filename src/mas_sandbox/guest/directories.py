"""Paths of `/workspace` as the real directory behind it, opened one component at a time.

For a call's working directory and its grants, where no symbolic link is followed:
a link that an earlier call planted would widen what the next one is granted.
"""

from __future__ import annotations

import os

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import WORKSPACE

from .refusal import Refused

O_PATH: int = getattr(os, "O_PATH", os.O_RDONLY)
_FOLLOW_NOTHING = O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def inside(path: str) -> list[str] | None:
    """The components of `path` beneath `/workspace`; None where it is not beneath it.

    Raises Refused, `invalid_request`, for a path with `..` or NUL.
    """
    components = path.split("/")
    if ".." in components or "\0" in path:
        raise Refused(ErrorCode.INVALID_REQUEST, f"{path[:200]!r} must hold no '..' and no NUL")
    if path != WORKSPACE and not path.startswith(WORKSPACE + "/"):
        return None
    return [part for part in components[2:] if part not in ("", ".")]


def open_beneath(root: str, components: list[str]) -> int:
    """An O_PATH descriptor; a symbolic link as last component is opened itself.

    Raises OSError: ENOENT, or ENOTDIR where anything on the way is not a directory.
    """
    found = os.open(root, O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    for position, part in enumerate(components, start=1):
        on_the_way = os.O_DIRECTORY if position < len(components) else 0
        above = found
        try:
            found = os.open(part, _FOLLOW_NOTHING | on_the_way, dir_fd=above)
        finally:
            os.close(above)
    return found
