"""The files of one log: `audit.jsonl`, which grows, and what was put away when it was full,
`audit.jsonl.000001` and on, which nobody writes to again.

The last record of a file that was put away is of kind `rotated`, the first of the one behind
it of kind `continued`; the chain and the numbers go on from one to the other.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from .records import Record, parse

_NUMBER = re.compile(r"\.([0-9]{6,})")
_FIRST_LINE = _CHUNK = 64 * 1024


def put_away(path: Path) -> list[Path]:
    """The files before `path`, oldest first."""
    found = []
    for each in path.parent.glob(f"{path.name}.*"):
        number = _NUMBER.fullmatch(each.name.removeprefix(path.name))
        if number:
            found.append((int(number[1]), each))
    return [each for _, each in sorted(found)]


def next_place(path: Path) -> Path:
    """Where `path` is put away to."""
    before = put_away(path)
    number = int(before[-1].name.rpartition(".")[2]) if before else 0
    return path.with_name(f"{path.name}.{number + 1:06d}")


def first_record(path: Path) -> Record | None:
    """Not verified; None where there is none on a line of reasonable length."""
    with path.open("rb") as file:
        line = file.readline(_FIRST_LINE)
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def begins_at(path: Path) -> int:
    """How many bytes of the log were in the files before this one."""
    match first_record(path):
        case {"kind": "continued", "offset": int(offset)}:
            return offset
        case _:
            return 0


def log_id(path: Path) -> str:
    """The digest of the log's very first record, as the first of this file tells it.

    Raises ValueError where it tells nothing.
    """
    match first_record(path):
        case {"kind": "continued", "log": str(identity)}:
            return identity
        case {"seq": 1, "digest": str(identity)}:
            return identity
        case _:
            raise ValueError(f"the first record of {path} is damaged; see mas-sandbox audit verify")


def last_record(descriptor: int, end: int) -> Record:
    """Of the line that ends at `end`. Raises ValueError where it is no sound record."""
    return parse(line_before(descriptor, end - 1)[1] + b"\n")


def line_before(descriptor: int, end: int) -> tuple[int, bytes]:
    """Where the line that ends at `end` begins, and its bytes without the newline."""
    pieces: list[bytes] = []
    while end > 0:
        begin = max(0, end - _CHUNK)
        chunk = os.pread(descriptor, end - begin, begin)
        newline = chunk.rfind(b"\n")
        pieces.append(chunk[newline + 1 :])
        end = begin + newline + 1 if newline >= 0 else begin
        if newline >= 0:
            break
    return end, b"".join(reversed(pieces))
