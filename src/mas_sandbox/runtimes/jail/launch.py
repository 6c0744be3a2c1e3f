"""What a jail is started with, and what comes of it, whoever does the starting."""

from __future__ import annotations

import abc
import os
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Literal

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..process import Ending
from .layout import Plan, plan_jail
from .mounts import JailMounts
from .seccomp import jail_filter
from .seccomp_setuid import setuid_filter

LauncherName = Literal["zygote", "bubblewrap"]
_DEFAULT: LauncherName = "zygote"
SETTING = "MAS_SANDBOX_JAIL_LAUNCHER"


def named_launcher() -> LauncherName:
    """Which of them the environment asks for. Raises SandboxError `invalid_request`."""
    match os.environ.get(SETTING) or _DEFAULT:
        case "bubblewrap":
            return "bubblewrap"
        case "zygote":
            return "zygote"
        case other:
            raise SandboxError(
                ErrorCode.INVALID_REQUEST,
                f"{SETTING}={other}: jails are started by zygote or bubblewrap",
            )


@dataclass(frozen=True, slots=True)
class Order:
    """One jail. `channel`: its end of the byte stream; `user`: who it is outside, None for
    who the daemon is; `entrances`: open files of its control groups; `scratch_mb`: of each
    scratch space."""

    channel: int
    user: int | None
    entrances: tuple[int, ...]
    environment: dict[str, str]
    mounts: JailMounts
    scratch_mb: int

    def plan(self, undo: ExitStack, runner: bytes | None, info: int | None = None) -> Plan:
        """`undo`, `runner`, `info` as `plan_jail` has them."""
        filters = [jail_filter(), setuid_filter()] if self.mounts.writable else [jail_filter()]
        return plan_jail(
            seccomp=filters,
            scratch_mb=self.scratch_mb,
            undo=undo,
            runner=runner,
            info=info,
            binds=self.mounts.binds,
        )


class Launched(abc.ABC):
    """A jail that is being built. `process`: what ends with it."""

    process: Ending

    @abc.abstractmethod
    def first_process(self, undo: AsyncExitStack) -> int:
        """The host's id of it, once the toolrunner has answered; `undo` ends it. Raises
        OSError."""


class Launcher(abc.ABC):
    """One way to start jails, all of them behind the same walls."""

    own_processes: int
    """Of each jail's, beside the guest's."""

    @abc.abstractmethod
    async def launch(self, order: Order, undo: AsyncExitStack) -> Launched:
        """The jail is in its control groups before anything of it runs. `undo` ends it.

        Raises OSError, subprocess.SubprocessError.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Release what it holds. Its jails are stopped before."""
