"""Whether a log is what was written: every record unchanged, in place, none missing.

A record cut from the end leaves a sound, shorter chain. Only a head digest that was
noted elsewhere before can show that: pass it as `expected_head`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .records import GENESIS, Record, parse

MAX_LINE = 16 * 1024 * 1024
MAX_PROBLEMS = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and in which line, counted from 1 (0: in none that is there)."""

    line: int
    reason: str


@dataclass(slots=True)
class Verification:
    """What was found. `calls`: intents; `interrupted`: calls whose outcome is that code;
    `unfinished`: calls without an outcome, running now or their daemon just died;
    `head`: the last record's digest, to note elsewhere."""

    records: int = 0
    calls: int = 0
    interrupted: int = 0
    unfinished: int = 0
    problems: list[Problem] = field(default_factory=list)
    head: str = GENESIS

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: str | os.PathLike[str], expected_head: str | None = None) -> Verification:
    """Read a whole log, in memory that grows only with the calls that are open at once.

    `expected_head`: a head noted before; it must still be in the chain. At most
    `MAX_PROBLEMS` problems are kept. Raises OSError where the file cannot be read.
    """
    chain = _Chain()
    seen = expected_head is None or expected_head == GENESIS
    for line in lines(Path(path)):
        chain.follow(line)
        seen = seen or chain.found.head == expected_head
    if not seen:
        chain.problem(0, f"the record {expected_head} is missing: the log was cut or replaced")
    chain.found.unfinished = len(chain.open_calls)
    return chain.found


def lines(path: Path) -> Iterator[bytes]:
    """The log's lines as of now; one that a daemon is just writing is waited for."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        left = os.fstat(file.fileno()).st_size
        fcntl.flock(file, fcntl.LOCK_UN)
        while left > 0 and (line := file.readline(min(left, MAX_LINE))):
            left -= len(line)
            yield line


class _Chain:
    def __init__(self) -> None:
        self.found = Verification()
        self.open_calls: set[tuple[str, str]] = set()
        self._line = 0
        self._sequence = 0

    def problem(self, line: int, reason: str) -> None:
        if len(self.found.problems) < MAX_PROBLEMS:
            self.found.problems.append(Problem(line, reason))

    def follow(self, line: bytes) -> None:
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
            return
        if record.get("previous") != self.found.head or record["seq"] != self._sequence + 1:
            self.problem(
                self._line,
                f"record {record['seq']} does not follow record {self._sequence}: "
                "one was removed, inserted or moved",
            )
        self._sequence, self.found.head = record["seq"], record["digest"]
        self._count(record)

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
                self.open_calls.add((daemon, call_id))
            case {"kind": "outcome", "intended_by": str(daemon), "call_id": str(call_id)}:
                self.found.interrupted += record.get("code") == "interrupted"
                if (daemon, call_id) not in self.open_calls:
                    self.problem(self._line, f"an outcome of no open call: {call_id!r}")
                self.open_calls.discard((daemon, call_id))
            case {"kind": "start" | "stop" | "recovered" | "connection" | "sandbox"}:
                pass
            case _:
                self.problem(self._line, "a record of no known kind")
