"""What became of every call: nothing may be lost, come twice, or come to somebody else."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from dataclasses import dataclass, field

from mas_sandbox.wire.errors import ErrorCode

_TOKEN = re.compile(r"tok-[0-9a-f]{16}")
UNDER_FAULTS = frozenset(
    {
        ErrorCode.OVERLOADED,
        ErrorCode.SANDBOX_CRASH,
        ErrorCode.GUEST_LOST,
        ErrorCode.INTERRUPTED,
        ErrorCode.NOT_FOUND,
    }
)
"""How a call may end when the queue is full, or what it runs in is killed."""
KILLED = re.compile(
    r"is dead \(.*; restart it"  # a context whose process was killed
    r"|the kernel has ended, with exit code 137"
    r"|something ended the process that was to wait for it"
    r"|was killed: exit code 137"
    r"|ended by signal 9 "
    r"|its standard input is closed"  # of a process that was killed
)
"""What other codes may say then."""


def new_token() -> str:
    return f"tok-{secrets.token_hex(8)}"


@dataclass
class Ledger:
    """`answered`, `refused`, `abandoned`: by kind of call; `wrong`: every breach, in words."""

    answered: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    abandoned: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    duplicated: int = 0
    cross_delivered: int = 0
    unexpected: int = 0
    wrong: list[str] = field(default_factory=list)
    _open: dict[str, str] = field(default_factory=dict)
    _done: set[str] = field(default_factory=set)

    def begin(self, kind: str, token: str) -> None:
        self._open[token] = kind

    def answer(self, token: str, text: str) -> None:
        """An answer that came for this call: it has the call's token, once, and no other."""
        if (kind := self._close(token, text)) is None:
            return
        found = _TOKEN.findall(text)
        others = {each for each in found if each != token}
        if others:
            self.cross_delivered += 1
            self.wrong.append(f"{kind} {token} got {sorted(others)}: {text[:200]!r}")
        elif len(found) > 1:
            self.duplicated += 1
            self.wrong.append(f"{kind} {token} came {len(found)} times: {text[:200]!r}")
        elif not found:
            self.lost += 1
            self.wrong.append(f"{kind} {token} was answered without its token: {text[:200]!r}")
        else:
            self.answered[kind] += 1

    def refuse(self, token: str, code: ErrorCode, message: str) -> None:
        """A typed error that came for this call."""
        if (kind := self._close(token, message)) is None:
            return
        self.refused[f"{kind} {code}"] += 1
        others = set(_TOKEN.findall(message)) - {token}
        if others:
            self.cross_delivered += 1
            self.wrong.append(f"{kind} {token}: an error with {sorted(others)}: {message[:200]}")
        if code not in UNDER_FAULTS and not KILLED.search(message):
            self.unexpected += 1
            self.wrong.append(f"{kind} {token}: {code}: {message[:300]}")

    def abandon(self, token: str) -> None:
        """The caller went away; its call is told to nobody."""
        kind = self._close(token, "")
        if kind is not None:
            self.abandoned[kind] += 1

    def lose(self, token: str, why: str) -> None:
        """Nothing came in time, or something that is no answer."""
        kind = self._close(token, why)
        if kind is not None:
            self.lost += 1
            self.wrong.append(f"{kind} {token} is lost: {why[:300]}")

    def finish(self) -> None:
        for token in list(self._open):
            self.lose(token, "still open at the end")

    @property
    def calls(self) -> int:
        return len(self._done) + len(self._open)

    @property
    def running(self) -> int:
        return len(self._open)

    @property
    def sound(self) -> bool:
        return not self.wrong

    def _close(self, token: str, text: str) -> str | None:
        kind = self._open.pop(token, None)
        if kind is None:
            self.duplicated += 1
            known = "a second time" if token in self._done else "and nobody asked for it"
            self.wrong.append(f"{token} was answered {known}: {text[:200]!r}")
            return None
        self._done.add(token)
        return kind
