"""An archive as it comes in: plain or gzip, told apart by its first bytes."""

from __future__ import annotations

from mas_sandbox.guest.tools import ToolFailure

from . import PIECE
from .tar import malformed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_GZIP = b"\x1f\x8b"
_FREE = 64 * 1024 * 1024
_MAX_RATIO = 100
"""How many times its size an archive may become, beyond `_FREE` bytes."""


class Source:
    """`read`: the next piece of the input, empty at its end."""

    def __init__(self, read: Callable[[], bytes]) -> None:
        self._read = read
        self._held = b""
        while len(self._held) < len(_GZIP) and (piece := read()):
            self._held += piece
        if self._held.startswith(_GZIP):
            self._read = _Inflated(self._held, read).read
            self._held = b""

    def take(self, size: int) -> bytes:
        """Exactly so many bytes. Raises ToolFailure where the input ends before."""
        pieces = []
        while size:
            piece = self.piece(size)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def piece(self, most: int) -> bytes:
        """At least one byte. Raises ToolFailure at the end of the input."""
        held = self._held or self._read()
        if not held:
            raise ToolFailure("the archive is cut short", "invalid_request")
        self._held = held[most:]
        return held[:most]

    def finish(self, most: int) -> None:
        """Take in what follows the end of the archive, as far as `most` bytes."""
        while most > 0 and (piece := self._held or self._read()):
            self._held = b""
            most -= len(piece)


class _Inflated:
    """gzip (RFC 1952), of one or more members."""

    def __init__(self, first: bytes, read: Callable[[], bytes]) -> None:
        import zlib

        self._zlib = zlib
        self._compressed = first
        self._more = read
        self._taken = len(first)
        self._given = 0
        self._decoder = zlib.decompressobj(wbits=31)

    def read(self) -> bytes:
        while True:
            data = self._inflate()
            if data:
                return data
            if self._compressed and not self._decoder.eof:
                continue
            if not self._compressed:
                self._compressed = self._more()
                self._taken += len(self._compressed)
            if not self._compressed:
                if self._decoder.eof:
                    return b""
                raise ToolFailure("the archive is cut short", "invalid_request")
            if self._decoder.eof:
                self._decoder = self._zlib.decompressobj(wbits=31)

    def _inflate(self) -> bytes:
        if self._decoder.eof:
            return b""
        try:
            data = self._decoder.decompress(self._compressed, PIECE)
        except self._zlib.error as error:
            raise malformed(f"its gzip is broken ({error})") from error
        self._compressed = self._decoder.unused_data or self._decoder.unconsumed_tail
        self._given += len(data)
        if self._given > _FREE + _MAX_RATIO * self._taken:
            raise ToolFailure(
                f"the archive becomes more than {_MAX_RATIO} times its size; send it uncompressed",
                "invalid_request",
                "too_large",
            )
        return data
