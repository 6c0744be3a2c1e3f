"""Stopping every process of a control group where it stands, and letting them go on.

Version 2 freezes any group (`cgroup.freeze`), and what is frozen can still be killed. Version 1
has a hierarchy for it (`freezer`), whose processes see a signal only once they are let go.
Sources: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/freezer-subsystem.rst.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .cgroup_find import Hierarchy, counter

FREEZE_TIMEOUT_S = 5.0
_POLL_S = 0.002


class Freezer:
    """Of one sandbox's group.

    Where none of the group's own directories can be frozen, one that can is made at the first
    pause, and the processes are moved to it, some 15 ms each: a sandbox that is never paused,
    which is most of them, pays for nothing.
    """

    def __init__(self, directories: list[Path], place: Hierarchy | None, name: str) -> None:
        """`directories`: the group's, to which a new one is added; `place`: where that may be
        made, under `name`."""
        self._directories = directories
        self._place = place
        self._name = name
        self._frozen: Path | None = None

    async def freeze(self) -> None:
        """Return when nothing of the group runs any more.

        Raises SandboxError `policy_unenforceable` where this host has nothing to do it with,
        `timeout` when it did not come to a stop; it then goes on.
        """
        deadline = time.monotonic() + FREEZE_TIMEOUT_S
        try:
            group = self._frozen = self._frozen or self._find() or self._make()
            _tell(group, frozen=True)
            if group is not self._directories[0]:
                await asyncio.to_thread(_gather, self._directories[0], group, deadline)
            while not _is_frozen(group):
                if time.monotonic() > deadline:
                    raise TimeoutError
                await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            self.thaw()
            raise SandboxError(
                ErrorCode.TIMEOUT,
                f"the sandbox did not come to a stop within {FREEZE_TIMEOUT_S:g} s and goes on; "
                "try again when it does less",
            ) from error
        except OSError as error:
            self.thaw()
            raise _refusal(f"its control group cannot be stopped: {error}") from error
        except BaseException:
            self.thaw()
            raise

    def thaw(self) -> None:
        """Let everything go on. Safe where nothing is frozen, or nothing left."""
        if self._frozen is not None:
            thaw(self._frozen)

    def _find(self) -> Path | None:
        """A directory of the group's own that can be frozen: version 2's."""
        return next((each for each in self._directories if (each / "cgroup.freeze").exists()), None)

    def _make(self) -> Path:
        if self._place is None or not self._directories:
            raise _refusal("this host gives the daemon no control group that can be")
        directory = self._place.parent / self._name
        directory.mkdir()
        self._directories.append(directory)
        return directory


def thaw(group: Path) -> None:
    """Let a group go on, where it is one that can be frozen and is there."""
    with suppress(OSError):
        _tell(group, frozen=False)


def _tell(group: Path, *, frozen: bool) -> None:
    if (group / "cgroup.freeze").exists():
        (group / "cgroup.freeze").write_text("1" if frozen else "0")
    elif (group / "freezer.state").exists():
        (group / "freezer.state").write_text("FROZEN" if frozen else "THAWED")


def _is_frozen(group: Path) -> bool:
    if (group / "cgroup.freeze").exists():
        return counter(group / "cgroup.events", "frozen") == 1
    return (group / "freezer.state").read_text().strip() == "FROZEN"


def _gather(group: Path, frozen: Path, deadline: float) -> None:
    """Move every process of `group` into one that is frozen already; what they fork meanwhile
    is found the next time round. Raises TimeoutError when they fork faster than that."""
    while outside := _members(group) - _members(frozen):
        if time.monotonic() > deadline:
            raise TimeoutError
        for process in outside:
            with suppress(ProcessLookupError):
                (frozen / "cgroup.procs").write_text(process)


def _members(group: Path) -> set[str]:
    return set((group / "cgroup.procs").read_text().split())


def _refusal(why: str) -> SandboxError:
    return SandboxError(
        ErrorCode.POLICY_UNENFORCEABLE,
        f"the sandbox cannot be paused: {why}; run the daemon as root or with a delegated cgroup "
        "v2 (`mas-sandbox doctor` tells), or ask for runtime microvm",
    )
