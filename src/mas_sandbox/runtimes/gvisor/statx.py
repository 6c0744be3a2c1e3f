"""A shared library of one function, for the C programs of a sandbox.

gVisor before 2023 refuses statx(2) with AT_NO_AUTOMOUNT (EINVAL), which `ls` and `stat` of
coreutils 9 always ask for; Debian 12 has that gVisor and those programs. This library's
`statx` leaves the flag out, which means nothing where nothing is mounted by itself, and
goes on to the C library's `syscall`. ld.so(8) loads it through /etc/ld.so.preload.

Layout: elf(5) and the System V ABI for x86-64. One page of code and tables, one page that
the loader writes to.
"""

from __future__ import annotations

import struct

PATH = "/run/mas/statx.so"
PRELOAD = "/etc/ld.so.preload"
_PAGE = 0x1000
_CODE = bytes.fromhex(
    "81e2fff7ffff"  # and edx, ~0x800         flags without AT_NO_AUTOMOUNT
    "4d89c1"  # mov r9, r8                    then every argument moves up by one:
    "4189c8"  # mov r8d, ecx
    "89d1"  # mov ecx, edx
    "4889f2"  # mov rdx, rsi
    "4863f7"  # movsxd rsi, edi
    "bf4c010000"  # mov edi, 332              syscall(SYS_statx, ...)
    "ff25"  # jmp [rip + ...]                 by way of the table below
)
_STRINGS = b"\0statx\0syscall\0"
_SYMBOLS_AT, _STRINGS_AT, _HASH_AT, _RELOCATION_AT, _CODE_AT = 0x100, 0x180, 0x1A0, 0x1C0, 0x200
_TABLE_AT = _PAGE + 0x100


def library() -> bytes:
    """The file, for x86-64."""
    image = bytearray(_TABLE_AT + 8)
    dynamic = _dynamic()
    symbols = _symbol(0, 0, 0) + _symbol(1, 1, _CODE_AT) + _symbol(7, 0, 0)
    jump = struct.pack("<i", _TABLE_AT - (_CODE_AT + len(_CODE) + 4))
    for place, content in (
        (0, _header() + _segments(len(dynamic))),
        (_SYMBOLS_AT, symbols),
        (_STRINGS_AT, _STRINGS),
        (_HASH_AT, struct.pack("<6I", 1, 3, 1, 0, 2, 0)),  # one bucket: symbols 1, then 2
        (_RELOCATION_AT, struct.pack("<QQq", _TABLE_AT, 2 << 32 | 6, 0)),  # R_X86_64_GLOB_DAT
        (_CODE_AT, _CODE + jump),
        (_PAGE, dynamic),
    ):
        image[place : place + len(content)] = content
    return bytes(image)


def _header() -> bytes:
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    # A shared object for x86-64: three segments after the header, no sections.
    return identity + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)


def _segments(dynamic: int) -> bytes:
    load, table = 1, 2
    read, write, execute = 4, 2, 1
    return b"".join(
        struct.pack("<IIQQQQQQ", kind, flags, at, at, at, size, size, alignment)
        for kind, flags, at, size, alignment in (
            (load, read | execute, 0, _CODE_AT + len(_CODE) + 4, _PAGE),
            (load, read | write, _PAGE, _TABLE_AT + 8 - _PAGE, _PAGE),
            (table, read | write, _PAGE, dynamic, 8),
        )
    )


def _dynamic() -> bytes:
    entries = (
        (4, _HASH_AT),
        (5, _STRINGS_AT),
        (6, _SYMBOLS_AT),
        (7, _RELOCATION_AT),
        (8, 24),  # bytes of relocations, then of one
        (9, 24),
        (10, len(_STRINGS)),
        (11, 24),  # bytes of one symbol
        (0, 0),
    )
    return b"".join(struct.pack("<qQ", tag, value) for tag, value in entries)


def _symbol(name: int, section: int, value: int) -> bytes:
    """A global function; section 0 is for another library to define."""
    kind = 0x12 if name else 0
    return struct.pack("<IBBHQQ", name, kind, 0, section, value, 0)
