"""How a program that was run to its end has ended."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from mas_sandbox.api.live import Exited, Output

from .errors import CommandFailed, error_of
from .reading import cut_off

if TYPE_CHECKING:
    from mas_sandbox.api.models import ErrorBody

    from .events import Happened

Told = Callable[[str], object]
_Decoder = getincrementaldecoder("utf-8")


@dataclass(frozen=True, slots=True)
class Finished:
    """A program that has ended.

    `exit_code`: its own, 128 + N where signal N ended it, and `signal` is N then; `stdout`,
    `stderr`: what it wrote, as text (what is no UTF-8 is replaced); `error`: why it was
    ended, if it was: `error.code` is `timeout` at its time limit.
    """

    exit_code: int
    signal: int | None
    stdout: str
    stderr: str
    error: ErrorBody | None = None

    def check(self) -> Self:
        """This; raises CommandFailed unless the program ended with 0."""
        if self.exit_code == 0 and self.error is None:
            return self
        raise CommandFailed(self._summary(), finished=self)

    def _summary(self) -> str:
        ended = f"the program ended with {self.exit_code}"
        if self.error is not None:
            ended += f" ({self.error.message})"
        last_words = (self.stderr or self.stdout).strip()[-400:]
        return f"{ended}: {last_words}" if last_words else ended


class Collecting:
    """What a program writes, told as it comes and kept to its end."""

    def __init__(self, on_stdout: Told | None, on_stderr: Told | None) -> None:
        self._pipes = {"stdout": _Pipe(on_stdout), "stderr": _Pipe(on_stderr)}
        self._exit: Exited | None = None

    def take(self, event: Happened) -> None:
        match event:
            case Output(type="stdout" | "stderr" as pipe, data=data):
                self._pipes[pipe].take(data)
            case Exited():
                for each in self._pipes.values():
                    each.take(b"", final=True)
                self._exit = event

    def finished(self) -> Finished:
        """Raises CallError where the sandbox did not live to say how it ended."""
        ended = self._exit
        if ended is None:
            raise cut_off()
        if ended.exit_code is None:
            raise error_of(ended.error) if ended.error else cut_off()
        return Finished(
            ended.exit_code,
            ended.signal,
            self._pipes["stdout"].text(),
            self._pipes["stderr"].text(),
            ended.error,
        )


class _Pipe:
    def __init__(self, tell: Told | None) -> None:
        self._tell = tell
        self._decoder = _Decoder("replace")
        self._parts: list[str] = []

    def take(self, data: bytes, *, final: bool = False) -> None:
        part = self._decoder.decode(data, final)
        if part:
            self._parts.append(part)
            if self._tell is not None:
                self._tell(part)

    def text(self) -> str:
        return "".join(self._parts)
