"""The descriptions that postures are compared with: one file for each runtime.

A table for each part; `like` takes what is not said from another part. `filters` is how many
there are, or names of programs in `filters.toml`.
"""

from __future__ import annotations

import os
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from .seen import Posture

DIRECTORY = Path(__file__).parent


@cache
def described(runtime: str) -> dict[str, Posture]:
    """Part -> its posture, whole."""
    tables = tomllib.loads((DIRECTORY / f"{runtime}.toml").read_text())
    return {part: _whole(tables, part) for part in tables}


def differences(runtime: str, part: str, seen: Posture) -> dict[str, tuple[Any, Any]]:
    """Field -> (what is described, what is there), where they are not the same."""
    wanted = described(runtime)[part]
    return {
        field: (wanted.get(field), seen.get(field))
        for field in wanted.keys() | seen.keys()
        if not _fits(field, wanted.get(field), seen.get(field))
    }


def _whole(tables: dict[str, Posture], part: str) -> Posture:
    own = dict(tables[part])
    like = own.pop("like", None)
    return own if like is None else _whole(tables, like) | own


def _fits(field: str, wanted: Any, seen: Any) -> bool:
    if field != "filters" or isinstance(seen, int):
        return bool(wanted == seen)
    if isinstance(wanted, int):
        return len(seen) == wanted
    return seen == [_programs()[name].get(os.uname().machine, "") for name in wanted]


@cache
def _programs() -> dict[str, dict[str, str]]:
    return tomllib.loads((DIRECTORY / "filters.toml").read_text())
