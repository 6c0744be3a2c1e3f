"""Whether a log is what was written: every record unchanged, in place, none missing.

A record cut from the end leaves a sound, shorter chain, and whoever may write the log can
make it anew as a whole. Only what was noted elsewhere before can show that: a head digest,
or checkpoints, which nobody makes without the key.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from .files import put_away
from .records import GENESIS, Record, parse

if TYPE_CHECKING:
    from .checkpoints import Checkpoint

MAX_LINE = 16 * 1024 * 1024
MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which line, counted from 1 (0: in none that is there), of which
    of the log's files."""

    line: int
    reason: str
    file: str = ""


@dataclass(slots=True)
class Verification:
    """What was found. `calls`: intents; `interrupted`: calls whose outcome is that code;
    `unfinished`: calls without an outcome, running now or their daemon just died;
    `head`: the last record's digest, to note elsewhere; `first`, `last`: numbers of the first
    and the last record; `checkpoints`: how many hold, `signed`: number of the last record
    that one of them is about."""

    records: int = 0
    first: int = 0
    last: int = 0
    checkpoints: int = 0
    signed: int = 0
    calls: int = 0
    interrupted: int = 0
    unfinished: int = 0
    problems: list[Problem] = field(default_factory=list)
    head: str = GENESIS

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(
    path: str | os.PathLike[str],
    expected_head: str | None = None,
    checkpoints: Sequence[Checkpoint] = (),
    *,
    partial: bool = False,
) -> Verification:
    """Read a whole log, all its files, in memory that grows only with the calls that are open
    at once.

    `expected_head`: a head noted before; it must still be in the chain. `checkpoints`: whose
    signatures hold; what each is about must still be there. `partial`: the oldest files may
    be gone. At most `MAX_PROBLEMS` problems are kept. Raises OSError where a file cannot be
    read.
    """
    chain = _Chain(checkpoints, partial)
    seen = expected_head is None or expected_head == GENESIS
    for name, line in _lines(Path(path)):
        chain.follow(name, line)
        seen = seen or chain.found.head == expected_head
    if not seen:
        chain.problem(0, f"the record {expected_head} is missing: the log was cut or replaced")
    chain.finish()
    return chain.found


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The log's lines as of now, with the names of their files; one that a daemon is just
    writing is waited for."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        before = put_away(path)
        left = os.fstat(file.fileno()).st_size
        moved = not os.path.samestat(os.fstat(file.fileno()), path.stat())
        fcntl.flock(file, fcntl.LOCK_UN)
        if moved:  # it was put away between our opening and our locking it
            yield from _lines(path)
            return
        for each in before:
            with each.open("rb") as full:
                yield from ((each.name, line) for line in _up_to(full, each.stat().st_size))
        yield from ((path.name, line) for line in _up_to(file, left))


def _up_to(file: BinaryIO, left: int) -> Iterator[bytes]:
    while left > 0 and (line := file.readline(min(left, MAX_LINE))):
        left -= len(line)
        yield line


class _Chain:
    def __init__(self, checkpoints: Sequence[Checkpoint], partial: bool) -> None:
        self.found = Verification()
        self._open_calls: set[tuple[str, str]] = set()
        self._file = ""
        self._line = 0
        self._sequence = 0
        self._log = ""
        self._partial = partial
        self._ahead = sorted(checkpoints, key=lambda each: each.seq, reverse=True)

    def problem(self, line: int, reason: str) -> None:
        if len(self.found.problems) < MAX_PROBLEMS:
            self.found.problems.append(Problem(line, reason, self._file if line else ""))

    def finish(self) -> None:
        """What shows only at the end."""
        self.found.unfinished = len(self._open_calls)
        self.found.last = self._sequence
        for checkpoint in reversed(self._ahead):
            self.problem(
                0,
                f"the log ends at record {self._sequence}, but record {checkpoint.seq} was "
                f"signed at {checkpoint.time}: its end was cut",
            )

    def follow(self, name: str, line: bytes) -> None:
        if name != self._file:
            self._file, self._line = name, 0
        self._line += 1
        if not line.endswith(b"\n"):
            self.problem(self._line, "is torn; the next daemon to start moves it aside")
            return
        self.found.records += 1
        try:
            record = parse(line)
        except ValueError as error:
            self.problem(self._line, f"the record {error}")
            self._skip(line)
            self._compare()
            return
        if self.found.records == 1:
            self._begin(record)
        elif record.get("previous") != self.found.head or record["seq"] != self._sequence + 1:
            self.problem(
                self._line,
                f"record {record['seq']} does not follow record {self._sequence}: "
                "one was removed, inserted or moved",
            )
        self._sequence, self.found.head = record["seq"], record["digest"]
        self._compare()
        self._count(record)

    def _begin(self, record: Record) -> None:
        self.found.first = self._sequence = record["seq"]
        match record:
            case {"seq": 1, "previous": previous, "digest": str(digest)} if previous == GENESIS:
                self._log = digest
            case {"kind": "continued", "log": str(log), "file": str(file)}:
                self._log = log
                if not self._partial:
                    self.problem(self._line, f"what was before it, up to {file}, is gone")
            case _:
                self.problem(self._line, "is not the first record of a log: earlier ones are gone")

    def _compare(self) -> None:
        """The record with the checkpoints that are about it, or should have been before it."""
        while self._ahead and self._ahead[-1].seq <= self._sequence:
            checkpoint = self._ahead.pop()
            said = f"record {checkpoint.seq}, as it was signed at {checkpoint.time}"
            if checkpoint.seq < self.found.first and self._partial:
                continue  # in a file that is gone
            if checkpoint.log != self._log:
                self.problem(self._line, f"{said}, is of another log, or this one was made anew")
            elif checkpoint.seq != self._sequence:
                self.problem(self._line, f"{said}, is missing")
            elif checkpoint.head != self.found.head:
                self.problem(self._line, f"is not {said}: the log was rewritten")
            else:
                self.found.checkpoints += 1
                self.found.signed = checkpoint.seq

    def _skip(self, line: bytes) -> None:
        """Go on behind a bad record as if it were sound, so that it is told of once."""
        self._sequence += 1
        marker = b'"digest":"'
        start = line.find(marker) + len(marker)
        self.found.head = line[start : start + 64].decode("ascii", "replace")

    def _count(self, record: Record) -> None:
        match record:
            case {"kind": "intent", "daemon": str(daemon), "call_id": str(call_id)}:
                self.found.calls += 1
                self._open_calls.add((daemon, call_id))
            case {"kind": "outcome", "intended_by": str(daemon), "call_id": str(call_id)}:
                self.found.interrupted += record.get("code") == "interrupted"
                if (daemon, call_id) not in self._open_calls and self.found.first <= 1:
                    self.problem(self._line, f"an outcome of no open call: {call_id!r}")
                self._open_calls.discard((daemon, call_id))
            case {"kind": "start" | "stop" | "recovered" | "connection" | "sandbox"}:
                pass
            case {"kind": "rotated" | "continued"}:
                pass
            case _:
                self.problem(self._line, "a record of no known kind")
