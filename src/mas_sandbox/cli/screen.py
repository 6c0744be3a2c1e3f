"""What a person sees: text that cannot steer the terminal, tables, errors."""

from __future__ import annotations

import json
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# All C0 and C1 controls but tab and newline: cursor, colour, title and paste sequences,
# and the marks that reorder text. What a sandbox printed must not write on the screen.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)

_UNFOLDED = 1000


def visible(text: str) -> str:
    r"""Text with its control characters spelt out.

    >>> visible("\x1b[2Jgone")
    '\\x1b[2Jgone'
    """
    return _CONTROLS.sub(lambda match: ascii(match.group())[1:-1], text)


def show(text: str, stream: TextIO) -> None:
    """Write a tool's output: as it is into a pipe or file, made visible on a terminal."""
    if not text:
        return
    shown = visible(text) if stream.isatty() else text
    stream.write(shown if shown.endswith("\n") else shown + "\n")
    stream.flush()


def show_json(value: Any) -> None:
    """One JSON document for a program; escaped, so safe on any screen."""
    show(json.dumps(value, indent=2), sys.stdout)


def complain(message: str) -> None:
    """One error on stderr."""
    show(visible(f"mas-sandbox: {message}"), sys.stderr)


def console(*, stderr: bool = False) -> Console:
    """Tables and colours; no colours, and lines of any length, unless it is a terminal."""
    from rich.console import Console

    made = Console(highlight=False, emoji=False, stderr=stderr)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _UNFOLDED
    return made
