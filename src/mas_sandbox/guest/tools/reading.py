"""read_file, and how file contents become text."""

from __future__ import annotations

import codecs
import os

from mas_sandbox.guest.place import shown

from . import ToolFailure
from .arguments import integer, only, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from io import BufferedReader
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_WHOLE = 10 * 1024 * 1024
"""Bytes of a file that is read as a whole."""
MAX_SHOWN = 256 * 1024
"""Bytes of content in one answer: it fits the default output limit also when escaped."""
MAX_SCANNED = 1024 * 1024 * 1024
"""Bytes passed over on the way to a line."""
MAX_LINE = 2**53 - 1
_SNIFFED = 8192
_PIECE = 64 * 1024


def read_file(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """Lines end in `\\n` alone and are returned as they are."""
    only(args, "path", "start_line", "end_line")
    path = text(args, "path")
    start = integer(args, "start_line", 1, 1, MAX_LINE)
    end = integer(args, "end_line", MAX_LINE, 1, MAX_LINE)
    if end < start:
        raise ToolFailure(f"end_line {end} is before start_line {start}", "invalid_request")
    with files.open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_WHOLE and "end_line" not in args:
            raise ToolFailure(
                f"{shown(path)} is {size} bytes, over {MAX_WHOLE}: give start_line and end_line"
            )
        if looks_binary(file.peek(_SNIFFED)):
            raise binary(path, size)
        return _Lines(file, start, end).result(path, count_all=size <= MAX_WHOLE)


def read_whole(files: Files, path: str) -> bytes:
    """All of a file of at most `MAX_WHOLE` bytes, however it grows meanwhile."""
    with files.open_file(path) as file:
        data = file.read(MAX_WHOLE + 1)
    if len(data) > MAX_WHOLE:
        raise ToolFailure(
            f"{shown(path)} is over {MAX_WHOLE} bytes; use read_file with a line range"
        )
    return data


def binary(path: str, size: int) -> ToolFailure:
    return ToolFailure(f"{shown(path)} is a binary file of {size} bytes, not text")


def looks_binary(data: bytes) -> bool:
    return b"\0" in data[:_SNIFFED]


class _Lines:
    """One pass over a file, with memory for what is shown and one piece of a line."""

    def __init__(self, file: BufferedReader, start: int, end: int) -> None:
        self._file = file
        self._start = start
        self._end = end
        self._line = 0  # the last one that was seen to begin
        self._last = start - 1  # the last one shown
        self._shown = bytearray()
        self._truncated = False

    def result(self, path: str, count_all: bool) -> dict[str, Any]:
        total = self._scan(count_all)
        if self._line < self._start and self._start > 1:
            raise ToolFailure(f"{shown(path)} has {self._line} lines; start_line is {self._start}")
        content, _ = codecs.utf_8_decode(self._shown, "replace", not self._truncated)
        result = {
            "content": content,
            "start_line": self._start,
            "end_line": self._last,
            "total_lines": total,
            "truncated": self._truncated,
        }
        if not self._shown.startswith(content.encode()):
            result["invalid_utf8"] = True
        return result

    def _scan(self, count_all: bool) -> int | None:
        """The number of lines, None where the rest was left unread."""
        at_start = True
        scanned = 0
        while piece := self._file.readline(_PIECE):
            scanned += len(piece)
            self._line += at_start
            at_start = piece.endswith(b"\n")
            if self._start <= self._line <= self._end and not self._truncated:
                self._show(piece)
            done = self._truncated or (self._line >= self._end and at_start)
            if done and not count_all:
                return None
            if scanned > MAX_SCANNED:
                self._truncated = True
                return None
        return self._line

    def _show(self, piece: bytes) -> None:
        if len(self._shown) + len(piece) <= MAX_SHOWN:
            self._shown += piece
            self._last = self._line
            return
        self._truncated = True
        # End at a whole line, so that the next read can go on after it. A single line
        # that is longer than an answer is cut.
        whole = self._shown.rfind(b"\n") + 1
        if whole:
            del self._shown[whole:]
            self._last = self._start + self._shown.count(b"\n") - 1
