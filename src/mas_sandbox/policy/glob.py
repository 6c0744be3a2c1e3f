"""Whole-string globs: `*` is any run of characters, `?` is one. Linear on every input.

A glob is cut at its stars. The first piece is compared at the start, the last at
the end, and each one between is looked for once, leftmost, which is enough
because a star in front may swallow anything. Literal pieces are found with
`str.find`; pieces holding `?` with shift-and (Baeza-Yates and Gonnet, "A new
approach to text searching", CACM 1992), one step a character.
"""

from __future__ import annotations

from collections.abc import Callable

MAX_GLOB = 256
MAX_SUBJECT = 65_536
"""Longer text is not compared; the rule treats it as something it cannot judge."""


def compile_glob(pattern: str) -> Callable[[str], bool]:
    """A function that says whether a whole string of up to `MAX_SUBJECT` matches."""
    head, *rest = pattern.split("*")
    if not rest:
        return lambda text: len(text) == len(head) and _piece_at(head, text, 0)
    *middle, tail = rest
    if not (head or tail) and "?" not in pattern and len(middle) == 1:
        return lambda text: middle[0] in text  # `*word*`, the commonest shape
    finders = [_finder(piece) for piece in middle if piece]
    least = len(head) + len(tail)

    def matches(text: str) -> bool:
        end = len(text) - len(tail)
        if len(text) < least or not _piece_at(head, text, 0) or not _piece_at(tail, text, end):
            return False
        position = len(head)
        for find in finders:
            position = find(text, position, end)
            if position < 0:
                return False
        return True

    return matches


def slow_pieces(pattern: str) -> int:
    """How many pieces need a look at every character in turn; policies bound their sum."""
    return sum("?" in piece for piece in pattern.split("*")[1:-1])


def _piece_at(piece: str, text: str, position: int) -> bool:
    if "?" not in piece:
        return text.startswith(piece, position)
    part = text[position : position + len(piece)]
    return all(wanted in ("?", found) for wanted, found in zip(piece, part, strict=True))


def _finder(piece: str) -> Callable[[str, int, int], int]:
    """A function from (text, start, end) to where the leftmost match ends, or -1."""
    if "?" not in piece:

        def find(text: str, start: int, end: int) -> int:
            found = text.find(piece, start, end)
            return found if found < 0 else found + len(piece)

        return find

    anything = sum(1 << index for index, wanted in enumerate(piece) if wanted == "?")
    masks = {
        character: anything | sum(1 << i for i, wanted in enumerate(piece) if wanted == character)
        for character in set(piece)
    }
    whole = 1 << (len(piece) - 1)

    def shift_and(text: str, start: int, end: int) -> int:
        state = 0
        for position in range(start, end):
            state = (state << 1 | 1) & masks.get(text[position], anything)
            if state & whole:
                return position + 1
        return -1

    return shift_and
