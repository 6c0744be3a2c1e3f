"""A kernel that does as it is told, for a LiveGuest: `PROGRAMS["python3"]`.

It reads its program and requests as `mas_sandbox.kernel` does and speaks in the same marked
pieces. A request's code is a list of verbs as JSON: `["out", TEXT]`, `["err", TEXT]`,
`["flood", BYTES]`, `["say", MESSAGE]`, `["long", BYTES]` (a result of so many bytes),
`["end_errors", N]` (the end of run N on the pipe of errors), `["raw", TEXT]` (`MARK` stands for
the mark), `["wait"]` for a SIGINT, `["deaf"]`, `["exit", N]`. `["late"]`, the first of them, is
that the request is read late: until then no SIGINT is heeded. It does not model: Python.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

from doubles.live_runtime import PROGRAMS, Ended, Running
from mas_sandbox.wire.frames import Kind

_ROOM = 4000
_LATE_S = 0.3


class _Lines:
    """Standard input in pieces of a known length, and lines."""

    def __init__(self, own: Running) -> None:
        self._own = own
        self._data = b""

    async def line(self) -> bytes:
        while b"\n" not in self._data:
            await self._more()
        line, _, self._data = self._data.partition(b"\n")
        return line

    async def exactly(self, size: int) -> bytes:
        while len(self._data) < size:
            await self._more()
        taken, self._data = self._data[:size], self._data[size:]
        return taken

    async def _more(self) -> None:
        data = await self._own.read()
        if not data:
            raise Ended(0)
        self._data += data


class ScriptedKernel:
    """One of them. `interrupts`: how many SIGINTs it was sent."""

    def __init__(self, own: Running) -> None:
        self._own = own
        self._mark = ""

    async def live(self) -> None:
        lines = _Lines(self._own)
        text = (await lines.exactly(int(await lines.line()))).decode()
        found = re.search(r"'mark': '\\x1e([0-9a-f]{32})'", text)
        assert found is not None
        self._mark = "\x1e" + found[1]
        await self.say({"type": "ready", "kernel": "plain"})
        while True:
            request = json.loads(await lines.line())
            status, execution = "ok", request["execution"]
            verbs = json.loads(request["code"])
            if verbs[:1] == [["late"]]:
                del verbs[0]
                await asyncio.sleep(_LATE_S)
                while not self._own.signals.empty():
                    self._own.signals.get_nowait()
            await self.say({"type": "begin", "execution": execution})
            for verb, *arguments in verbs:
                status = await getattr(self, f"_{verb}")(*arguments) or status
            await self.say({"type": "end", "execution": execution, "status": status})
            await self._end_errors(execution)

    async def say(self, message: Any, kind: Kind = Kind.STDOUT) -> None:
        text = json.dumps(message)
        for begin in range(0, len(text), _ROOM):
            piece = text[begin : begin + _ROOM]
            flag = "+" if begin + _ROOM < len(text) else "."
            await self._own.write(f"{self._mark}{len(piece):04x}{flag}{piece}".encode(), kind)

    async def _out(self, text: str) -> None:
        await self._own.write(text.encode("utf-8", "surrogateescape"))

    async def _err(self, text: str) -> None:
        await self._own.write(text.encode(), Kind.STDERR)

    async def _flood(self, size: int) -> None:
        for _ in range(size // 10_000):
            await self._own.write(b"x" * 10_000)

    async def _say(self, message: Any) -> None:
        await self.say(message)

    async def _end_errors(self, execution: int) -> None:
        await self.say({"type": "end", "execution": execution}, Kind.STDERR)

    async def _long(self, size: int) -> None:
        data = {"text/plain": "x" * size}
        await self.say({"type": "result", "data": data, "main": False})

    async def _raw(self, text: str) -> None:
        await self._own.write(text.replace("MARK", self._mark).encode())

    async def _wait(self) -> str:
        await self._own.signals.get()
        return "interrupted"

    async def _deaf(self) -> None:
        await asyncio.Event().wait()

    async def _exit(self, code: int) -> None:
        raise Ended(code)


async def _python3(own: Running, words: list[str]) -> None:
    await ScriptedKernel(own).live()


PROGRAMS["python3"] = _python3
