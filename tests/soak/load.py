"""Those who call over HTTP: one-shot calls at the queue's bound, and lives in sandboxes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from mas_sandbox.api.live import Exited, Output
from mas_sandbox.api.models import ErrorBody
from mas_sandbox.sdk import AsyncClient, AsyncSandbox
from mas_sandbox.sdk.errors import (
    BadReply,
    CallError,
    DaemonLost,
    DaemonUnavailable,
    ToolFailed,
    error_of,
)

from .ledger import Ledger, new_token

PATIENCE_S = 90
"""After which a call is taken for lost: the longest queue is served in a tenth of it."""
ABANDONED = 0.06
"""Share of the calls whose caller hangs up."""


@dataclass
class Load:
    """`until`: the loop's time at which nobody begins another call."""

    client: AsyncClient
    ledger: Ledger
    chance: Random
    until: float

    @property
    def goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self.until

    async def one_shots(self) -> None:
        """One caller without a sandbox of its own."""
        while self.goes_on:
            token = new_token()
            kind, tool, args = self.chance.choice(_ONE_SHOTS)(token)
            if await self.told(f"http {kind}", token, self._execute(tool, args, token)):
                continue
            await asyncio.sleep(self.chance.uniform(0.1, 0.6))  # as one does who is refused

    async def lives(self) -> None:
        """One caller with a sandbox, and another when that one dies."""
        while self.goes_on:
            token = new_token()
            opened: list[AsyncSandbox] = []
            await self.told("create", token, self._open(opened, token), steady=True)
            if not opened:
                await asyncio.sleep(0.2)
                continue
            (sandbox,) = opened
            for _ in range(self.chance.randrange(4, 20)):
                token = new_token()
                kind, work = self.chance.choice(_LIVES)
                if not self.goes_on or not await self.told(kind, token, work(sandbox, token)):
                    break
            token = new_token()
            await self.told("end", token, _end(sandbox, token), steady=True)

    async def told(
        self, kind: str, token: str, work: Awaitable[str], *, steady: bool = False
    ) -> bool:
        """Whether it went well. `steady`: a caller that does not hang up."""
        ledger, began = self.ledger, asyncio.get_running_loop().time()
        ledger.begin(kind, token)
        hangs_up = not steady and self.chance.random() < ABANDONED
        patience = self.chance.uniform(0, 0.3) if hangs_up else PATIENCE_S
        try:
            async with asyncio.timeout(patience):
                text = await work
        except TimeoutError:
            if hangs_up:
                ledger.abandon(token)
            else:
                ledger.lose(token, f"no answer in {PATIENCE_S} s")
            return hangs_up
        except (DaemonLost, DaemonUnavailable, BadReply) as error:
            took_s = asyncio.get_running_loop().time() - began
            ledger.lose(token, f"{type(error).__name__} after {took_s:.1f} s: {error}")
        except CallError as error:
            ledger.refuse(token, error.code, error.message)
        else:
            ledger.answer(token, text)
            return True
        return False

    async def _execute(self, tool: str, args: dict[str, str], token: str) -> str:
        trace = {"run_id": "soak", "step_id": token}
        result = await self.client.execute(tool, args, tool_call_id=token, trace=trace)
        _killed(result.raise_for_error().exit_code)
        if result.tool_call_id != token:
            return f"{result.tool_call_id} is another call's"
        if tool == "calculator":  # which knows numbers only: its answer is this call's own
            return token if result.result == int(token[4:], 16) else f"{result.result}"
        return f"{result.result}"

    async def _open(self, opened: list[AsyncSandbox], token: str) -> str:
        info = await self.client.open_sandbox(metadata={"token": token}, timeout_s=600)
        opened.append(AsyncSandbox(self.client, info))
        return str(info.metadata["token"])


async def _end(sandbox: AsyncSandbox, token: str) -> str:
    await sandbox.kill()
    return token


def _calculator(token: str) -> tuple[str, str, dict[str, str]]:
    return "calculator", "calculator", {"expression": f"{int(token[4:], 16)} + 1 - 1"}


def _bash(token: str) -> tuple[str, str, dict[str, str]]:
    return "bash", "bash", {"command": f"printf %s {token}"}


def _python(token: str) -> tuple[str, str, dict[str, str]]:
    return "python", "python", {"code": f"print({token!r}, end='')"}


def _slow(token: str) -> tuple[str, str, dict[str, str]]:
    return "slow bash", "bash", {"command": f"sleep 0.1; printf %s {token}"}


_ONE_SHOTS = (_calculator, _bash, _bash, _python, _slow)


async def _in_a_file(sandbox: AsyncSandbox, token: str) -> str:
    await sandbox.files.write(f"{token}.txt", token)
    text = await sandbox.files.read_text(f"{token}.txt")
    await sandbox.files.remove(f"{token}.txt")
    return text


async def _in_a_command(sandbox: AsyncSandbox, token: str) -> str:
    finished = await sandbox.run(["cat"], stdin=token)
    _raise(finished.error)
    _killed(finished.exit_code)
    return finished.stdout


async def _in_a_process(sandbox: AsyncSandbox, token: str) -> str:
    process = await sandbox.processes.start(["sh", "-c", "read line; echo $line; sleep 60"])
    await process.write(f"{token}\n")
    text = b""
    async with process.events() as events:
        async for event in events:
            match event:
                case Output(data=data):
                    text += data
                case Exited(error=error, exit_code=exit_code):
                    _raise(error)
                    _killed(exit_code)
            if text.endswith(b"\n"):
                break
    await process.kill()
    return text.decode()


async def _in_code(sandbox: AsyncSandbox, token: str) -> str:
    execution = await sandbox.code.run(f"seen = {token!r}\nprint(seen)")
    _raise(execution.error)
    return execution.check().stdout


def _killed(exit_code: int | None) -> None:
    """A program's exit code is data; that of one which was killed is no answer here."""
    if exit_code == 128 + signal.SIGKILL:
        raise ToolFailed(f"it was killed: exit code {exit_code}")


def _raise(error: ErrorBody | None) -> None:
    if error is not None:
        raise error_of(error)


async def _in_a_call(sandbox: AsyncSandbox, token: str) -> str:
    trace = {"run_id": "soak", "step_id": token}
    result = await sandbox.execute("bash", {"command": f"echo {token}"}, trace=trace)
    _killed(result.raise_for_error().exit_code)
    return str(result.result)


Work = Callable[[AsyncSandbox, str], Awaitable[str]]
_LIVES: tuple[tuple[str, Work], ...] = (
    ("files", _in_a_file),
    ("run", _in_a_command),
    ("process", _in_a_process),
    ("code", _in_code),
    ("call", _in_a_call),
)
