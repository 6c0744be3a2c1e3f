"""Which part of a file a request asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re

_ONE_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """The file has no such part."""


def part(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and how many; None for all of it, which is also the answer to what is
    malformed or asks for several parts. Raises Unsatisfiable."""
    found = _ONE_RANGE.fullmatch(header.strip()) if header else None
    if found is None or found.group() == "bytes=-":
        return None
    first, last = found.groups()
    if not first:
        length = min(int(last), size)
        if length == 0:
            raise Unsatisfiable
        return size - length, length
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise Unsatisfiable
    end = min(int(last), size - 1) if last else size - 1
    return int(first), end - int(first) + 1
