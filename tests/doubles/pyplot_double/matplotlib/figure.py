"""`matplotlib.figure.Figure`."""

from __future__ import annotations

from typing import BinaryIO


class Figure:
    def __init__(self, number: str) -> None:
        self.number = number

    def savefig(self, file: BinaryIO, *, format: str, bbox_inches: str) -> None:
        assert (format, bbox_inches) == ("png", "tight")
        file.write(f"png of {self.number}".encode())
