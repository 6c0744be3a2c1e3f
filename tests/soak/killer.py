"""Kills parts of the sandboxes of given daemons: never anything that is not their child's."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from random import Random

from .tree import below


class Killer:
    """`killed`: how many of which program."""

    def __init__(self, daemons: tuple[int, ...], chance: Random, every_s: float) -> None:
        self.killed: Counter[str] = Counter()
        self._daemons = daemons
        self._chance = chance
        self._every_s = every_s

    async def run(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            await asyncio.sleep(self._chance.expovariate(1 / self._every_s))
            await asyncio.to_thread(self._kill, self._chance.choice(self._daemons))

    def _kill(self, daemon: int) -> None:
        found = below(daemon)
        if not found:
            return
        victim = self._chance.choice(found)
        try:
            handle = os.pidfd_open(victim)
        except OSError:
            return  # it has ended by itself
        try:
            # Its id may have become another's before it was opened, not since.
            if victim in below(daemon):
                name = _name(victim)
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                self.killed[name] += 1
        except ProcessLookupError:
            return
        finally:
            os.close(handle)


def _name(process: int) -> str:
    try:
        with open(f"/proc/{process}/comm") as file:
            return file.read().strip()
    except OSError:
        return "ended"
