"""Headers of tar archives: pax (POSIX.1-2017, `pax`), ustar, GNU's long names, the oldest.

The standard `tarfile` costs more to import than most archives to read, keeps all that it
has seen and trusts sizes that a header states. This reads one header at a time, in bounds.
"""

from __future__ import annotations

import stat

from mas_sandbox.guest.tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 512
FILE, LINK, SYMLINK, DIRECTORY = b"0", b"1", b"2", b"5"
_FILES = (FILE, b"\0", b"7")  # the last: contiguous, on systems of long ago
_PAX, _PAX_ALL, _GNU_NAME, _GNU_TARGET = b"x", b"g", b"L", b"K"
_ABOUT_THE_NEXT = (_PAX, _PAX_ALL, _GNU_NAME, _GNU_TARGET)
_MAX_ABOUT = 1024 * 1024
"""Bytes of what is said of one member beside its header; that may hold extended attributes."""
_MAX_ABOUTS = 8
_MAX_OCTAL = 8**11


class Member:
    """`kind`: FILE, LINK, SYMLINK, DIRECTORY, or whatever else the archive says; `size` of
    the content that follows, which only a FILE has; `name` and `target`: as bytes in the
    archive; `mtime`: Unix seconds."""

    __slots__ = ("kind", "mode", "mtime", "name", "size", "target")

    def __init__(
        self, kind: bytes, name: bytes, *, target: bytes, mode: int, size: int, mtime: int
    ) -> None:
        self.kind = kind
        self.name = name
        self.target = target
        self.mode = mode
        self.size = size
        self.mtime = mtime


def padding(size: int) -> int:
    """How many bytes fill up the last block of a content."""
    return -size % BLOCK


def encode(member: Member) -> bytes:
    """The header of a member, preceded by a pax one where it does not hold everything."""
    records = b""
    if len(member.name) > 100:
        records += _record(b"path", member.name)
    if len(member.target) > 100:
        records += _record(b"linkpath", member.target)
    if member.size >= _MAX_OCTAL:
        records += _record(b"size", b"%d" % member.size)
    header = _header(member.kind, member, member.name, member.target, member.size)
    if not records:
        return header
    about = _header(_PAX, member, b"PaxHeaders/" + member.name, b"", len(records))
    return about + records + bytes(padding(len(records))) + header


def _record(key: bytes, value: bytes) -> bytes:
    """`length key=value`, where the length counts its own digits."""
    rest = b" %s=%s\n" % (key, value)
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


def _header(kind: bytes, member: Member, name: bytes, target: bytes, size: int) -> bytes:
    mtime = min(max(member.mtime, 0), _MAX_OCTAL - 1)
    parts = (
        name[:100].ljust(100, b"\0"),
        b"%07o\0" % stat.S_IMODE(member.mode),
        b"0000000\0" * 2,  # nobody's in particular
        b"%011o\0" % (size if size < _MAX_OCTAL else 0),
        b"%011o\0" % mtime,
        b" " * 8,  # the sum is taken with blanks in its own place
        kind,
        target[:100].ljust(100, b"\0"),
        b"ustar\x0000",
    )
    block = b"".join(parts).ljust(BLOCK, b"\0")
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def decode(take: Callable[[int], bytes]) -> Member | None:
    """The next member; None at the end of the archive, a block of zeros.

    `take` returns exactly as many bytes. Raises ToolFailure for what is no archive, or one
    of a kind that is not read here.
    """
    said: dict[bytes, bytes] = {}
    for _ in range(_MAX_ABOUTS):
        block = take(BLOCK)
        if not any(block):
            return None
        _check_sum(block)
        kind = block[156:157]
        if kind not in _ABOUT_THE_NEXT:
            return _member(kind, block, said)
        said |= _about(kind, take, _number(block[124:136]))
    raise malformed("headers that announce no member")


def _about(kind: bytes, take: Callable[[int], bytes], size: int) -> dict[bytes, bytes]:
    if size > _MAX_ABOUT:
        raise malformed(f"{size} bytes of description of one member; {_MAX_ABOUT} at most")
    data = take(size)
    take(padding(size))
    if kind == _GNU_NAME:
        return {b"path": data.rstrip(b"\0")}
    if kind == _GNU_TARGET:
        return {b"linkpath": data.rstrip(b"\0")}
    # What a global header says of all members is no name, no size, nothing used here.
    return _records(data) if kind == _PAX else {}


def _records(data: bytes) -> dict[bytes, bytes]:
    records = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 9)
        if space < 0 or not data[at:space].isdigit():
            raise malformed("a pax record without a length")
        end = at + int(data[at:space])
        if not space + 1 < end <= len(data) or data[end - 1 : end] != b"\n":
            raise malformed("a pax record of another length than it states")
        key, _, value = data[space + 1 : end - 1].partition(b"=")
        if key.startswith(b"GNU.sparse"):
            raise _sparse()
        records[key] = value
        at = end
    return records


def _member(kind: bytes, block: bytes, said: dict[bytes, bytes]) -> Member:
    if kind == b"S":
        raise _sparse()
    name = said.get(b"path") or _name(block)
    size = _decimal(said[b"size"]) if b"size" in said else _number(block[124:136])
    if kind in _FILES:
        # Before there was a kind for it, a directory was a name with a slash.
        kind = DIRECTORY if name.endswith(b"/") else FILE
    return Member(
        kind,
        name,
        target=said.get(b"linkpath") or _text(block[157:257]),
        mode=_number(block[100:108]) & 0o777,
        size=size if kind == FILE else 0,
        mtime=_seconds(said[b"mtime"]) if b"mtime" in said else _number(block[136:148], least=0),
    )


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[:100]), _text(block[345:500])
    # In GNU's own format (`ustar` and two blanks) those bytes mean something else.
    return prefix + b"/" + name if prefix and block[257:263] == b"ustar\0" else name


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _check_sum(block: bytes) -> None:
    if _number(block[148:156]) != sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
        raise malformed("a header whose checksum is wrong")


def _number(field: bytes, least: int | None = None) -> int:
    """Octal digits, or as GNU has it a big-endian number with the top bit set.

    `least`: what a negative one becomes; it is refused where there is none.
    """
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True) if field[0] == 0xFF else None
        if value is None:
            return int.from_bytes(bytes((field[0] & 0x7F,)) + field[1:], "big")
    else:
        digits = field.strip(b" \0")
        if digits.strip(b"01234567"):
            raise malformed("a header with a number that is none")
        return int(digits or b"0", 8)
    if least is None:
        raise malformed("a header with a negative number")
    return least


def _decimal(value: bytes) -> int:
    if not value.isdigit() or len(value) > 19:
        raise malformed("a pax record with a number that is none")
    return int(value)


def _seconds(value: bytes) -> int:
    return 0 if value.startswith(b"-") else _decimal(value.partition(b".")[0])


def malformed(what: str) -> ToolFailure:
    return ToolFailure(f"the archive is no tar that can be read here: {what}", "invalid_request")


def _sparse() -> ToolFailure:
    return malformed("it holds a sparse file; make it without --sparse")
