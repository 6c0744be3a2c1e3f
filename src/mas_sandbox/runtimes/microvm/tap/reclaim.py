"""Removing what links have left on a host: our tables, and what they guard; dead daemons' too."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mas_sandbox.wire.errors import SandboxError

from ...ownership import Ownership
from . import forwarding, programs
from .device import GROUP

_LOCK = "tap.lock"


def reclaim(ownership: Ownership) -> None:
    """Remove what dead daemons left on this host's network; call it in a thread.

    Does nothing where no daemon ever made a link. Raises SandboxError; OSError.
    """
    if not (ownership.directory / _LOCK).exists():
        return
    with exclusive(ownership.directory):
        for link in programs.ip_json("link", "show", "group", str(GROUP)):
            if ownership.abandoned(link.get("ifalias", "")):
                programs.ip(f"link delete dev {link['ifname']}")
        for table in {table for _, table in _tables() if ownership.abandoned(table)}:
            clear(table)


def clear(table: str, raised: Iterable[str] = ()) -> None:
    """Remove what is left of our tables, once nothing is forwarded that they guard."""
    try:
        forwarding.turn_off(table, raised)
    finally:
        for family, name in _tables():
            if name == table:
                programs.nft(f"delete table {family} {name}\n")


def whole(table: str) -> bool:
    """Whether both tables are there."""
    try:
        return sum(name == table for _, name in _tables()) == 2
    except SandboxError:
        return False


def _tables() -> list[tuple[str, str]]:
    """(family, name) of every table of this host."""
    listed = [each["table"] for each in programs.nft_json("tables")]
    return [(each["family"], each["name"]) for each in listed]


@contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """No other daemon changes the network meanwhile, nor does a thread of ours."""
    lock = os.open(directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
