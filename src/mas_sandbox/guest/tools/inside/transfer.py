"""sandbox.read and sandbox.write: whole files, as streams."""

from __future__ import annotations

import os

from mas_sandbox.guest.changes import write_all
from mas_sandbox.guest.tools.arguments import flag, integer, only, text

from . import PIECE
from .entry import entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_OFFSET = 2**63 - 1


def read(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path, offset = 0, length = to the end} -> the bytes on standard output; the entry."""
    only(args, "path", "offset", "length")
    path = text(args, "path")
    offset = integer(args, "offset", 0, 0, MAX_OFFSET)
    left = integer(args, "length", MAX_OFFSET, 0, MAX_OFFSET)
    with files.open_file(path) as file:
        descriptor = file.fileno()
        status = os.fstat(descriptor)
        os.lseek(descriptor, offset, os.SEEK_SET)
        while left and (piece := os.read(descriptor, min(PIECE, left))):
            write_all(1, piece)
            left -= len(piece)
    return entry(files.absolute(path), status)


def write(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """{path, mode = that of the file it replaces, or 0644; parents = false} <- standard
    input; the entry. Nothing is there until the end of the input: who cannot finish it
    cancels the call."""
    only(args, "path", "mode", "parents")
    path = text(args, "path")
    mode = integer(args, "mode", 0, 0, 0o777) if "mode" in args else None
    status = files.write(path, _input(), flag(args, "parents"), mode)
    return entry(files.absolute(path), status)


def _input() -> Iterator[bytes]:
    while piece := os.read(0, PIECE):
        yield piece
