"""A peer's program, asked for one run at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ..rows import Absent
from ..turns import Take
from .install import Peer

_PATIENCE_S = 60.0


class Driven:
    """Times are those that the peer's own program took: none of ours is in them."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    def takes(self, argv: list[str], said: str, *, live: bool = False) -> Take:
        """Milliseconds for `argv`, which is to write `said`."""

        async def take() -> float:
            answer = await self.ask({"live": live, "argv": argv})
            if answer["out"].strip() != said:
                raise RuntimeError(f"it answered {answer['out'][:80]!r}, not {said!r}")
            return float(answer["ms"])

        return take

    async def ask(self, asked: dict[str, object] | None) -> dict[str, Any]:
        """Its answer; None: its first word. Raises RuntimeError with what went wrong."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        if asked is not None:
            stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(_PATIENCE_S):
            line = await stdout.readline()
        answer = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return dict(answer)


@asynccontextmanager
async def driven(peer: Peer) -> AsyncIterator[Driven | Absent]:
    """The peer, ready, or why it is not."""
    command = peer.command()
    if isinstance(command, Absent):
        yield command
        return
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        found = Driven(process)
        try:
            await found.ask(None)
        except (RuntimeError, TimeoutError, ValueError) as error:
            yield Absent(f"it did not start: {error}")
        else:
            yield found
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
