"""Removing what links have left on a host: our tables, and what they guard; dead daemons' too."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mas_sandbox.wire.errors import SandboxError

from ...ownership import Locks
from . import forwarding, programs
from .device import GROUP

_LOCK = "tap.lock"


def reclaim(locks: Locks) -> None:
    """Remove what dead daemons left on this host's network; call it in a thread.

    Does nothing where no daemon ever made a link. Raises SandboxError; OSError.
    """
    if not (locks.directory / _LOCK).exists():
        return
    with exclusive(locks.directory):
        for device in abandoned_devices(locks):
            programs.ip(f"link delete dev {device}")
        for table in abandoned_tables(locks):
            clear(table)


def abandoned_devices(locks: Locks) -> list[str]:
    """Network devices of dead daemons. Raises SandboxError; OSError."""
    if not (locks.directory / _LOCK).exists():
        return []
    links = programs.ip_json("link", "show", "group", str(GROUP))
    return [link["ifname"] for link in links if locks.abandoned(link.get("ifalias", ""))]


def abandoned_tables(locks: Locks) -> set[str]:
    """Names of dead daemons' tables of nftables. Raises SandboxError; OSError."""
    if not (locks.directory / _LOCK).exists():
        return set()
    return {table for _, table in _tables() if locks.abandoned(table)}


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
