"""What was found out about this host, kept in files that a reboot clears.

A file is named after its kind and a digest of everything that the answer depends on:
`probe-jail-0123456789abcdef.json`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

KEPT = 32
"""Files of one kind: of other versions and settings, which may run beside this one."""


def read(path: Path, parse: Callable[[Any], T]) -> T | None:
    """What `parse` makes of it, or None where nothing is kept that it understands."""
    try:
        return parse(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def keep(path: Path, found: object) -> None:
    """Whole or not at all, and the newest of its kind. Raises OSError."""
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(found))
    temporary.replace(path)
    kind = path.name.rpartition("-")[0]
    remove_old(path.parent, f"{kind}-*.json", KEPT)


def remove_old(directory: Path, pattern: str, count: int) -> None:
    """All files that match but the newest `count`."""
    with suppress(OSError):  # not ours, or somebody else removes them just now
        made = sorted(directory.glob(pattern), key=os.path.getmtime)
        for old in made[:-count]:
            old.unlink()
