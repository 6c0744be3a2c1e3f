"""One run of code: what happens in it, for the one that asked for it to take."""

from __future__ import annotations

import asyncio
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .bell import Bell
from .events import Event, error_fields, event

if TYPE_CHECKING:
    from mas_sandbox.wire.errors import SandboxError

    from .code_marks import Budget

MAX_PENDING = 256 * 1024
"""Bytes that wait to be taken; beyond them the code waits."""
_JOINED = 32 * 1024
"""Output is joined up to this size where it comes in little bits."""
_decoder = getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Wanted:
    """`timeout_ms`: after so long it is interrupted, 0 for never."""

    code: str
    timeout_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ending:
    """`status`: ok, exception, interrupted or lost; `error`: why it was cut off."""

    status: str
    error: SandboxError | None = None


@dataclass(slots=True)
class _Item:
    kind: str
    fields: dict[str, Any]
    size: int


class Run:
    """`execution`: its number in its context, 0 before its turn; `cut`: how it is to end before
    its time; `interrupt`: what is to be done about that while it waits or runs."""

    def __init__(self, context_id: str, wanted: Wanted, budget: Budget) -> None:
        self.context_id = context_id
        self.wanted = wanted
        self.execution = 0
        self.cut: Ending | None = None
        self.ending: Ending | None = None
        self.interrupt: Callable[[], object] | None = None
        self._budget = budget
        self._bell = Bell()
        self._items: deque[_Item] = deque()
        self._pending = 0
        self._heard = True
        self._hurried = False
        self._written = False
        self._over = False
        self._decoders = {"stdout": _decoder("replace"), "stderr": _decoder("replace")}

    # For the one that asked for it.

    async def take(self) -> tuple[str, dict[str, Any]] | None:
        """What happens next, and its fields; None after the end. Cancelling it loses nothing."""
        while not self._items:
            if self._over:
                return None
            if self.ending is not None:
                self._over = True
                ending = self.ending
                return "end", {"status": ending.status, "error": error_fields(ending.error)}
            await self._bell.wait()
        item = self._items.popleft()
        self._let_go(item)
        self._bell.ring()
        return item.kind, item.fields

    async def next(self) -> Event | None:
        """The same, as an event."""
        taken = await self.take()
        return None if taken is None else event(*taken)

    def leave(self) -> None:
        """Nobody listens any more: what it tells is dropped."""
        self._heard = False
        while self._items:
            self._let_go(self._items.popleft())
        self._bell.ring()

    def cancel(self, reason: SandboxError) -> None:
        """Interrupt it, or let it not begin."""
        self._cut(Ending("interrupted", reason))

    # For its context.

    @property
    def done_with(self) -> bool:
        """Whether it has ended, and nobody is still to be told."""
        return self._over or (self.ending is not None and not self._heard)

    def begin(self, execution: int) -> None:
        self.execution = execution
        self.tell("start", {"context_id": self.context_id, "execution": execution})

    def output(self, kind: str, data: bytes, *, final: bool = False) -> None:
        text = self._decoders[kind].decode(data, final)
        if not text or not self._heard or (self._hurried and self._pending > MAX_PENDING):
            return
        last = self._items[-1] if self._items else None
        if last is not None and last.kind == kind and last.size < _JOINED:
            last.fields["text"] += text
            last.size += len(text)
            self._pending += len(text)
            self._budget.held += len(text)
            self._bell.ring()
        else:
            self.tell(kind, {"text": text}, len(text))

    def tell(self, kind: str, fields: dict[str, Any], size: int = 0) -> None:
        """`size`: about how many bytes that are."""
        if self._heard:
            self._items.append(_Item(kind, fields, size))
            self._pending += size
            self._budget.held += size
            self._bell.ring()

    async def room(self, ended: asyncio.Future[Any]) -> None:
        """Until more can be told, or there is nothing to hold up: what `ended` stands for."""
        while self._pending > MAX_PENDING and not (self._written or self._hurried or ended.done()):
            moved = self._bell.next()  # not a task, which would begin to listen too late
            await asyncio.wait((moved, ended), return_when=asyncio.FIRST_COMPLETED)

    def hurry(self) -> None:
        """Whoever is slow to take its output is not waited for any more, and loses some."""
        self._hurried = True
        self._bell.ring()

    def flush(self) -> None:
        """It writes no more."""
        for kind in self._decoders:
            self.output(kind, b"", final=True)
        self._written = True
        self._bell.ring()

    def lose(self, reason: SandboxError) -> None:
        """Let it not begin, for its context has ended."""
        self._cut(Ending("lost", reason))

    def finish(self, ending: Ending) -> None:
        self.ending = self.ending or ending
        self._bell.ring()

    def _cut(self, ending: Ending) -> None:
        self.cut = self.cut or ending
        if self.interrupt is not None:
            self.interrupt()

    def _let_go(self, item: _Item) -> None:
        self._pending -= item.size
        self._budget.held -= item.size
