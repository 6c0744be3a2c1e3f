"""Calls over standard input. Answers are read raw, so that one that comes twice shows."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path
from random import Random
from typing import Any, Self

from mas_sandbox.wire.errors import ErrorCode

from .ledger import Ledger, new_token

_AT_ONCE = 10
_DRAIN_S = 90


class Lines:
    """A daemon on standard input, which runs two calls and lets six more wait."""

    def __init__(self, process: Process, ledger: Ledger, chance: Random) -> None:
        self.process = process
        self._ledger = ledger
        self._chance = chance
        self._room = asyncio.Semaphore(_AT_ONCE)

    @classmethod
    async def start(cls, state: Path, runtime: str, ledger: Ledger, chance: Random) -> Self:
        state.mkdir(parents=True)
        with (state / "stderr.log").open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mas_sandbox.server.main"),
                *("-runtime", runtime, "-state-dir", str(state), "-pool", "1"),
                *("-max-concurrent", "2", "-max-queue", "6", "-audit-max-mb", "1"),
                stdin=PIPE,
                stdout=PIPE,
                stderr=stderr,
            )
        return cls(process, ledger, chance)

    async def run(self, until: float) -> int:
        """Call until then, wait for every answer, end the daemon; its exit status."""
        answers = asyncio.create_task(self._read())
        stdin = self.process.stdin
        assert stdin is not None
        while asyncio.get_running_loop().time() < until:
            await self._room.acquire()
            await asyncio.sleep(self._chance.uniform(0, 0.04))
            stdin.write(self._call())
            await stdin.drain()
        stdin.close()  # the daemon finishes what runs, and leaves
        async with asyncio.timeout(_DRAIN_S):
            await answers
            return await self.process.wait()

    def _call(self) -> bytes:
        token = new_token()
        body: dict[str, Any] = {"id": token, "trace": {"run_id": "soak", "step_id": token}}
        if self._chance.random() < 0.5:
            body |= {"tool": "bash", "args": {"command": f"printf %s {token}"}}
        else:
            body |= {"tool": "calculator", "args": {"expression": f"{int(token[4:], 16)} + 0"}}
        self._ledger.begin(f"stdio {body['tool']}", token)
        return json.dumps(body).encode() + b"\n"

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            reply = json.loads(line)
            token = str(reply["id"])
            if reply["error"] is not None:
                code = ErrorCode(reply["error"]["code"])
                self._ledger.refuse(token, code, reply["error"]["message"])
            elif reply["exit_code"] == 137:  # its program was killed
                self._ledger.refuse(token, ErrorCode.INTERRUPTED, "was killed: exit code 137")
            else:
                result = reply["result"]
                if isinstance(result, int):  # the calculator knows numbers only
                    result = f"tok-{result:016x}"
                self._ledger.answer(token, str(result))
            self._room.release()
