"""Reading a log as it grows, for people. Nothing is verified here; see `verify`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from .records import Record

_POLL_S = 0.2
_CHUNK = 64 * 1024


def tail(path: Path, count: int) -> list[Record]:
    """The last `count` records, oldest first. Raises OSError where there is no log."""
    return list(_decoded(_last_lines(path, count)[0]))


def follow(path: Path, count: int = 10) -> Iterator[Record]:
    """The last `count` records, then each new one as it is written, for ever.

    Blocks between records; end it with KeyboardInterrupt or by closing the generator.
    """
    lines, position = _last_lines(path, count)
    yield from _decoded(lines)
    with path.open("rb") as file:
        file.seek(position)
        line = b""
        while True:
            line += file.readline()
            if line.endswith(b"\n"):
                yield from _decoded([line])
                line = b""
            else:
                time.sleep(_POLL_S)


def _last_lines(path: Path, count: int) -> tuple[list[bytes], int]:
    """The last complete lines, and where the last of them ends; reads from the end."""
    with path.open("rb") as file:
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
    """A line that is no JSON is shown as it is: `verify` says what is wrong with it."""
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            yield {"kind": "damaged", "text": line.decode("ascii", "backslashreplace")}
