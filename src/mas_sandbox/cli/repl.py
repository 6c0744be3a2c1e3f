"""Python in a sandbox, line by line."""

from __future__ import annotations

import codeop
import sys
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

from mas_sandbox.sdk.errors import DaemonLost, DaemonUnavailable, NotFound
from mas_sandbox.wire.errors import SandboxError

from .screen import complain

if TYPE_CHECKING:
    from .code import Running

FIRST, NEXT = ">>> ", "... "
_HOPELESS = (DaemonLost, DaemonUnavailable, NotFound)


def converse(running: Running) -> int:
    """Until Ctrl-D. What went wrong with one statement is told, and the next one is asked for;
    the status is 1 where there is nobody left to ask."""
    with suppress(ImportError):
        import readline  # noqa: F401 - input() edits lines with it
    print("Python in a sandbox. Ctrl-C interrupts, Ctrl-D leaves.", file=sys.stderr)  # noqa: T201
    while True:
        try:
            text = statement()
            if text.strip():
                running.run(text)
        except EOFError:
            print(file=sys.stderr)  # noqa: T201
            return 0
        except KeyboardInterrupt:
            print(file=sys.stderr)  # noqa: T201 - what was typed is dropped
        except SandboxError as error:
            complain(str(error))
            if isinstance(error, _HOPELESS):
                return 1


def statement() -> str:
    """As many lines as make one. Raises EOFError at the end, KeyboardInterrupt on Ctrl-C."""
    lines = [input(FIRST)]
    while incomplete("\n".join(lines)):
        try:
            lines.append(input(NEXT))
        except EOFError:
            break
    return "\n".join(lines) + "\n"


def incomplete(text: str) -> bool:
    """Whether more lines belong to it, as Python's own prompt sees it.

    >>> incomplete("if x:"), incomplete("if x:" + chr(10) + "    y"), incomplete("1 +")
    (True, True, False)
    """
    try:
        # Of what is wrong with it the sandbox's Python tells, whose grammar counts.
        with warnings.catch_warnings(action="ignore"):
            return codeop.compile_command(text, "<input>", "single") is None
    except (SyntaxError, ValueError, OverflowError):
        return False
