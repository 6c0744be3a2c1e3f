"""A jail through bubblewrap and a fresh interpreter."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack, ExitStack

from ..pid_namespace import end_all, first_process
from ..process import ChildProcess
from .launch import Launched, Launcher, Order
from .layout import toolrunner_command


class Bubblewrap(Launcher):
    """Starts one bubblewrap for each jail, with an empty command line: its arguments come
    from a pipe."""

    own_processes = 3
    """bubblewrap outside, bubblewrap as the jail's first process, and the toolrunner."""

    def __init__(self, program: str, python: str, runner: bytes) -> None:
        """`python`, `runner`: the program inside, and the archive that it runs."""
        self._program = program
        self._python = python
        self._runner = runner

    async def launch(self, order: Order, undo: AsyncExitStack) -> Launched:
        info, info_writer = os.pipe()
        undo.callback(os.close, info)
        with ExitStack() as inherited:
            inherited.callback(os.close, info_writer)
            arguments_reader, arguments_writer = os.pipe()
            inherited.callback(os.close, arguments_reader)
            with os.fdopen(arguments_writer, "wb", 0) as arguments:
                plan = order.plan(inherited, self._runner, info_writer)
                process = ChildProcess(
                    [
                        *(self._program, "--args", str(arguments_reader), "--"),
                        *toolrunner_command(self._python, order.channel),
                    ],
                    pass_fds=(order.channel, arguments_reader, *plan.descriptors),
                    environment=order.environment,
                    user=order.user,
                    groups=order.entrances,
                    enter=order.mounts.enter,
                    session=False,  # bubblewrap makes one for what is inside
                )
                undo.push_async_callback(_end, process)
                arguments.write(plan.encoded())
        return _Started(process, info)

    async def close(self) -> None:
        return


class _Started(Launched):
    def __init__(self, process: ChildProcess, info: int) -> None:
        self.process = process
        self._info = info

    def first_process(self, undo: AsyncExitStack) -> int:
        init = first_process(self._info)
        undo.push_async_callback(end_all, os.pidfd_open(init))
        return init


async def _end(process: ChildProcess) -> None:
    """End bubblewrap and wait until it is reaped."""
    process.kill()
    await asyncio.shield(process.ended)
    process.close()
