"""Path patterns as a shell with globstar has them, matched while a tree is walked."""

from __future__ import annotations

import fnmatch
import re

from . import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    Part = re.Pattern[str] | None  # None is `**`
    State = frozenset[tuple[Part, ...]]

MAX_LENGTH = 1000
MAX_ALTERNATIVES = 64
_BRACES = re.compile(r"\{([^{}]*,[^{}]*)\}")


class PathPattern:
    """`*`, `?` and `[...]` match inside one component, `**` any number of directories,
    `{a,b}` either. As in a shell, none of them matches a leading dot.

    `start` and `step` are what `tree.walk` takes: a state is the set of component lists
    that are still to be matched, so that no directory is entered in vain.
    """

    def __init__(self, pattern: str) -> None:
        if not pattern or len(pattern) > MAX_LENGTH:
            raise _invalid(f"a pattern has 1 to {MAX_LENGTH} characters")
        self.start: State = frozenset(
            state for text in _alternatives(pattern) for state in _closed(_parts(text))
        )

    def step(self, state: State, name: str) -> tuple[bool, State | None]:
        wanted = False
        inside: set[tuple[Part, ...]] = set()
        for parts in state:
            head, rest = parts[0], parts[1:]
            if head is None:
                if not name.startswith("."):
                    inside |= _closed(parts)
            elif head.match(name):
                wanted |= not rest
                if rest:
                    inside |= _closed(rest)
        return wanted, frozenset(inside) or None


def _closed(parts: tuple[Part, ...]) -> set[tuple[Part, ...]]:
    """With `**` standing for no directory at all, too."""
    states = {parts}
    while parts[0] is None:
        parts = parts[1:]
        states.add(parts)
    return states


def _parts(pattern: str) -> tuple[Part, ...]:
    names = [name for name in pattern.split("/") if name not in ("", ".")]
    if pattern.startswith("/") or ".." in names or not names:
        raise _invalid("a pattern is relative and has no '..'; path says where to begin")
    if names[-1] == "**":
        names.append("*")
    return tuple(None if name == "**" else _component(name) for name in names)


def _component(name: str) -> re.Pattern[str]:
    visible = "" if name.startswith(".") else r"(?!\.)"
    return re.compile(visible + fnmatch.translate(name))


def _alternatives(pattern: str) -> list[str]:
    done = []
    pending = [pattern]
    while pending:
        text = pending.pop()
        braces = _BRACES.search(text)
        if braces is None:
            done.append(text)
        else:
            before, after = text[: braces.start()], text[braces.end() :]
            pending += [before + choice + after for choice in braces[1].split(",")]
        if len(done) + len(pending) > MAX_ALTERNATIVES:
            raise _invalid(f"a pattern may stand for {MAX_ALTERNATIVES} alternatives at most")
    return done


def _invalid(message: str) -> ToolFailure:
    return ToolFailure(message, "invalid_request")
