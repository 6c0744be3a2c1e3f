"""A jail as a fork of a toolrunner that waits for that: no program is started for it.

The zygote is a process of the daemon's, executed with an empty environment and nothing
open, so that its memory, which every jail begins with, never held anything of the daemon's.
What it does for a jail is in `mas_sandbox.guest.zygote`; it reads the same words that
bubblewrap would be told.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections import deque
from contextlib import AsyncExitStack, ExitStack, suppress

from ..process import ChildProcess, first_bytes
from .launch import Launched, Launcher, Order
from .layout import Plan, plan_common, toolrunner_arguments

AT_ONCE = 8
"""Requests that wait for their answers; more wait here, where there is room for them."""
_ANSWER_BYTES = 4096
Answer = tuple[int, int]
"""The host's id of a jail's first process, and a pidfd of it."""


class Zygote(Launcher):
    """Starts jails through one zygote, and a new zygote where that one has died."""

    own_processes = 1
    """The toolrunner, which is the jail's first process."""

    def __init__(self, python: str, runner: bytes) -> None:
        """`runner`: the toolrunner's archive."""
        self._python = python
        self._runner = runner
        self._running: _Running | None = None

    async def launch(self, order: Order, undo: AsyncExitStack) -> Launched:
        running = self._running
        if running is None or running.lost:
            lost, running = running, _Running(self._python, self._runner)
            self._running = running
            if lost is not None:
                await lost.close()
        with ExitStack() as sent:
            plan = order.plan(sent, None)
            document = _document(
                plan,
                sent,
                user=order.user,
                entrances=len(order.entrances),
                arguments=toolrunner_arguments(),
                environment=order.environment,
            )
            stderr = os.memfd_create("stderr")
            undo.callback(os.close, stderr)
            pid, pidfd = await running.ask(
                [document, order.channel, stderr, *order.entrances, *plan.descriptors]
            )
        process = ForkedProcess(pidfd, stderr)
        undo.push_async_callback(process.end)
        return _Started(process, pid)

    async def close(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            await running.close()


class _Running:
    """One zygote's process. Its answers come in the order of what it was asked."""

    def __init__(self, python: str, runner: bytes) -> None:
        """Raises OSError, subprocess.SubprocessError."""
        self._waiting: deque[asyncio.Future[Answer]] = deque()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        program = os.memfd_create("toolrunner")
        try:
            os.write(program, runner)
            self._process = ChildProcess(
                [
                    *(python, "-I", "-S", f"/proc/self/fd/{program}"),
                    *("--zygote", str(theirs.fileno())),
                ],
                pass_fds=(program, theirs.fileno()),
                environment={},
                die_with_parent=True,
            )
            with ExitStack() as sent:
                common = plan_common(runner, sent)
                told = [_document(common, sent), *common.descriptors]
                socket.send_fds(self._control, [b"\0"], told)
        except BaseException:
            self._control.close()
            raise
        finally:
            theirs.close()
            os.close(program)
        self._places = asyncio.Semaphore(AT_ONCE)
        asyncio.get_running_loop().add_reader(self._control, self._hear)

    @property
    def lost(self) -> bool:
        return self._control.fileno() < 0

    async def ask(self, descriptors: list[int]) -> Answer:
        """Raises OSError: with what the zygote said, or when it is gone."""
        await self._places.acquire()
        try:
            socket.send_fds(self._control, [b"\0"], descriptors)
        except OSError:
            self._places.release()
            raise
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                _discard(answer.result())
            raise

    async def close(self) -> None:
        """End it, and with it every jail of its."""
        self._hang_up("the zygote was ended")
        self._process.kill()
        await asyncio.shield(self._process.ended)
        self._process.close()

    def _hear(self) -> None:
        try:
            text, (*descriptors,), _, _ = socket.recv_fds(self._control, _ANSWER_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionError:
            text, descriptors = b"", []
        if not text:
            self._hang_up(f"the zygote is gone: {self._process.stderr()}")
            return
        self._places.release()
        answer = self._waiting.popleft()
        if not descriptors:
            if not answer.cancelled():
                answer.set_exception(OSError(text.decode("utf-8", "replace")))
        elif answer.cancelled():
            _discard((int(text), descriptors[0]))
        else:
            answer.set_result((int(text), descriptors[0]))

    def _hang_up(self, reason: str) -> None:
        if self.lost:
            return
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()
        while self._waiting:
            self._places.release()
            answer = self._waiting.popleft()
            if not answer.cancelled():
                answer.set_exception(OSError(reason))


def _discard(answer: Answer) -> None:
    """End a jail that nobody waits for any more."""
    _, pidfd = answer
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    os.close(pidfd)


def _document(plan: Plan, undo: ExitStack, **more: object) -> int:
    """A file in memory with what the zygote is asked for."""
    said = {"plan": plan.arguments, "descriptors": plan.descriptors, **more}
    document = os.memfd_create("request")
    undo.callback(os.close, document)
    os.write(document, json.dumps(said).encode())
    return document


class ForkedProcess:
    """A jail's first process, which is a child of the zygote's. `ended` resolves once it, and
    with it every other of its PID namespace, is gone."""

    def __init__(self, pidfd: int, stderr: int) -> None:
        """`pidfd` is closed once it has ended; `stderr` stays its owner's."""
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self._pidfd = pidfd
        self._stderr = stderr
        loop.add_reader(pidfd, self._note_end)

    def stderr(self) -> str:
        """The first bytes that it wrote to standard error before it was a jail."""
        return first_bytes(self._stderr)

    async def end(self) -> None:
        if not self.ended.done():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        await asyncio.shield(self.ended)

    def _note_end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set_result(None)


class _Started(Launched):
    def __init__(self, process: ForkedProcess, pid: int) -> None:
        self.process = process
        self._pid = pid

    def first_process(self, undo: AsyncExitStack) -> int:
        return self._pid
