"""Reading a log as it grows, for people. Nothing is verified here; see `verify`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from .files import put_away
from .records import Record

_POLL_S = 0.2
_CHUNK = 64 * 1024


def tail(path: Path, count: int) -> list[Record]:
    """The last `count` records, oldest first. Raises OSError where there is no log."""
    with path.open("rb") as file:
        return list(_decoded(_last_lines(path, file, count)[0]))


def follow(path: Path, count: int = 10) -> Iterator[Record]:
    """The last `count` records, then each new one as it is written, for ever.

    Blocks between records; end it with KeyboardInterrupt or by closing the generator.
    """
    file = path.open("rb")
    try:
        lines, position = _last_lines(path, file, count)
        yield from _decoded(lines)
        file.seek(position)
        line = b""
        while True:
            line += file.readline()
            if line.endswith(b"\n"):
                yield from _decoded([line])
                line = b""
            elif not line and (later := _next(path, file)):
                file.close()
                file = later.open("rb")
            else:
                time.sleep(_POLL_S)
    finally:
        file.close()


def _next(path: Path, file: BinaryIO) -> Path | None:
    """The file behind this one, where this one was put away and is read to its end."""
    ours = os.fstat(file.fileno())
    before = put_away(path)
    for each, later in zip(before, [*before[1:], path], strict=True):
        if os.path.samestat(ours, each.stat()):
            return later if ours.st_size == file.tell() and later.exists() else None
    return None


def _last_lines(path: Path, file: BinaryIO, count: int) -> tuple[list[bytes], int]:
    """The last complete lines, and where in `file` the last of them ends."""
    lines, end = _last_of(file, count)
    for each in reversed(put_away(path)):
        if len(lines) >= count:
            break
        with each.open("rb") as full:
            lines = _last_of(full, count - len(lines))[0] + lines
    return lines, end


def _last_of(file: BinaryIO, count: int) -> tuple[list[bytes], int]:
    """Of one file; reads from the end."""
    begin = size = file.seek(0, os.SEEK_END)
    text = b""
    while begin > 0 and text.count(b"\n") <= count:
        length = min(begin, max(_CHUNK, len(text)))
        begin -= length
        file.seek(begin)
        text = file.read(length) + text
    *lines, unfinished = text.split(b"\n")
    if begin > 0:
        del lines[0]  # its beginning was not read
    return lines[-count:] if count > 0 else [], size - len(unfinished)


def _decoded(lines: Iterable[bytes]) -> Iterator[Record]:
    """A line that is no record is shown as it is: `verify` says what is wrong with it."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            yield record
        else:
            yield {"kind": "damaged", "text": line.decode("ascii", "backslashreplace")}
