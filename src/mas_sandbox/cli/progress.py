"""How far a transfer is, on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from .screen import console, visible

_PIECE = 256 * 1024


@contextmanager
def transfer(name: str, size: int | None, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Yields what is told of bytes as they are transferred; `size`: of all, where it is known."""
    if quiet or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(visible(name), total=size)
        yield lambda count: progress.update(task, advance=count)


def counted(file: BinaryIO, count: Callable[[int], None]) -> Iterator[bytes]:
    """What is in a file, by pieces that are told of."""
    while data := file.read(_PIECE):
        yield data
        count(len(data))
