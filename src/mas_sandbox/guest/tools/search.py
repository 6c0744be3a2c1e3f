"""glob and grep."""

from __future__ import annotations

import os
import re
import stat

from mas_sandbox.guest.changes import regular

from . import ToolFailure
from .arguments import flag, integer, only, text
from .patterns import PathPattern
from .reading import MAX_WHOLE, looks_binary
from .tree import Budget, Found, joined, walk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

MAX_PATHS = 1000
MAX_MATCHES = 1000
MAX_CONTEXT = 10
MAX_EXPRESSION = 1000
MAX_LINE = 500
"""Characters of a line that are shown."""
MAX_TEXT = 128 * 1024
"""Characters of all lines shown: fits the default output limit also when escaped."""
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW | os.O_CLOEXEC


def glob(args: dict[str, Any], files: Files) -> dict[str, Any]:
    only(args, "pattern", "path")
    pattern = PathPattern(text(args, "pattern"))
    path = text(args, "path", ".")
    budget = Budget()
    paths: list[str] = []
    directory = files.open_directory(path)
    try:
        for found in walk(directory, pattern.step, pattern.start, budget):
            if len(paths) == MAX_PATHS:
                budget.exhausted = True
                break
            paths.append(joined(path, found.shown))
    finally:
        os.close(directory)
    return {"paths": sorted(paths), "truncated": budget.exhausted}


def grep(args: dict[str, Any], files: Files) -> dict[str, Any]:
    """An expression can take exponential time, because `re` backtracks: it runs in the
    call's own process, and the call's timeout ends it."""
    only(args, "pattern", "path", "glob", "ignore_case", "fixed", "context", "max_matches")
    path = text(args, "path", ".")
    names = text(args, "glob", "*")
    pattern = PathPattern(names if "/" in names else f"**/{names}")
    search = _Search(
        _expression(text(args, "pattern"), flag(args, "fixed"), flag(args, "ignore_case")),
        integer(args, "context", 0, 0, MAX_CONTEXT),
        integer(args, "max_matches", 100, 1, MAX_MATCHES),
    )
    descriptor = files.open_any(path)
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            search.tree(path, descriptor, pattern)
        else:
            search.file(path, descriptor)
    finally:
        os.close(descriptor)
    return search.result()


def _expression(pattern: str, fixed: bool, ignore_case: bool) -> re.Pattern[str]:
    if not pattern or len(pattern) > MAX_EXPRESSION:
        raise ToolFailure(f"pattern has 1 to {MAX_EXPRESSION} characters", "invalid_request")
    try:
        return re.compile(
            re.escape(pattern) if fixed else pattern, re.IGNORECASE if ignore_case else 0
        )
    except (re.error, RecursionError, OverflowError) as error:
        raise ToolFailure(
            f"pattern is not a regular expression: {error}; set fixed to search for plain text",
            "invalid_request",
        ) from error


class _Search:
    def __init__(self, expression: re.Pattern[str], context: int, max_matches: int) -> None:
        self._expression = expression
        self._context = context
        self._max_matches = max_matches
        self._matches: list[dict[str, Any]] = []
        self._room = MAX_TEXT
        self._searched = 0
        self._skipped = 0
        self._truncated = False

    def tree(self, path: str, directory: int, pattern: PathPattern) -> None:
        budget = Budget()
        for found in walk(directory, pattern.step, pattern.start, budget):
            if found.entry.is_file(follow_symlinks=False):
                self._found(joined(path, found.shown), found)
            if self._truncated or not budget.allows():
                break
        self._truncated |= budget.exhausted

    def _found(self, path: str, found: Found) -> None:
        try:
            descriptor = regular(os.open(found.entry.name, _READ, dir_fd=found.directory))
        except OSError:  # gone, swapped for something else, or not ours to read
            self._skipped += 1
            return
        try:
            self.file(path, descriptor)
        finally:
            os.close(descriptor)

    def file(self, path: str, descriptor: int) -> None:
        """Files that are binary or over `MAX_WHOLE` bytes are counted, not searched."""
        with open(descriptor, "rb", closefd=False) as file:
            if looks_binary(file.peek()):
                self._skipped += 1
                return
            data = file.read(MAX_WHOLE + 1)
        if len(data) > MAX_WHOLE:
            self._skipped += 1
            return
        self._searched += 1
        lines = data.decode("utf-8", "replace").split("\n")
        if lines[-1] == "":
            lines.pop()
        for index, line in enumerate(lines):
            if self._expression.search(line):
                if len(self._matches) == self._max_matches or self._room <= 0:
                    self._truncated = True
                    return
                self._add(path, lines, index)

    def _add(self, path: str, lines: list[str], index: int) -> None:
        match: dict[str, Any] = {"path": path, "line": index + 1, "text": self._cut(lines[index])}
        if self._context:
            before = lines[max(0, index - self._context) : index]
            after = lines[index + 1 : index + 1 + self._context]
            match["before"] = [self._cut(line) for line in before]
            match["after"] = [self._cut(line) for line in after]
        self._matches.append(match)

    def _cut(self, line: str) -> str:
        shown = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}..."
        self._room -= len(shown)
        return shown

    def result(self) -> dict[str, Any]:
        return {
            "matches": self._matches,
            "files_searched": self._searched,
            "files_skipped": self._skipped,
            "truncated": self._truncated,
        }
