"""A sandbox whose every process is in one control group of the host's."""

from __future__ import annotations

from contextlib import AsyncExitStack

from mas_sandbox.wire.controls import Control

from .base import Sandbox
from .cgroup import Group
from .channel import Channel


class GroupedSandbox(Sandbox):
    """`init`: the host's id of its first process; `releases`: all that is its own."""

    def __init__(
        self, name: str, channel: Channel, enforced: frozenset[Control], init: int, group: Group
    ) -> None:
        self.id = name
        self.channel = channel
        self.enforced = enforced
        self.init = init
        self.releases = AsyncExitStack()
        self._group = group

    def oom_kills(self) -> int:
        return self._group.oom_kills()

    def cpu_us(self) -> int | None:
        return self._group.cpu_us()

    async def stop(self) -> None:
        self._group.freezer.thaw()
        await self.releases.aclose()

    async def _freeze(self) -> None:
        await self._group.freezer.freeze()

    async def _thaw(self) -> None:
        self._group.freezer.thaw()
