"""A child process whose end is an awaitable, without a thread or a SIGCHLD handler."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

_KILLED_FIRST = "500"
"""Half of all memory is added to what it uses, when the kernel looks for one to end."""
STDERR_BYTES = 8192
"""How much of a child's standard error is kept, the first bytes."""


class Ending(Protocol):
    """A process whose end can be waited for, and what it said on its way there."""

    @property
    def ended(self) -> asyncio.Future[Any]:
        """Resolves once it is gone."""

    def stderr(self) -> str:
        """The first bytes it wrote to standard error."""


class ChildProcess:
    """A started program. `ended` resolves once it has been reaped.

    The end is seen through a pidfd (pidfd_open(2)) where the kernel has it. Its
    standard error goes to an unlinked file, never to a pipe that could fill.
    """

    def __init__(
        self,
        argv: list[str],
        *,
        pass_fds: tuple[int, ...],
        environment: dict[str, str],
        user: int | None = None,
        groups: tuple[int, ...] = (),
        directory: str = "/",
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.DEVNULL,
        supplementary: tuple[int, ...] = (),
        die_with_parent: bool = False,
        enter: Callable[[], None] | None = None,
        session: bool = True,
    ) -> None:
        """Raises OSError or SubprocessError as `subprocess.Popen` does.

        `user`: uid and gid to drop to; `groups`: open files of control groups, which
        the child joins before the program starts; `stdin`, `stdout`: open files;
        `supplementary`: gids that a dropped user has beside its own; `die_with_parent`:
        SIGKILL when the thread that starts it ends, however that ends (Linux); `enter`:
        called in the child before it drops to `user`: system calls alone; `session`: whether
        it leads one, and so has no terminal, or only a process group, which is quicker made.
        """
        bond = _bond() if die_with_parent else None
        dropped = None if user is None else (user, list(supplementary))
        # Popen would drop before it calls anything of ours.
        by_popen = None if enter is not None else user
        steps = (partial(_enter, enter, dropped) if enter is not None else None, bond)
        self._stderr = os.memfd_create("stderr") if hasattr(os, "memfd_create") else _scratch()
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=stdin,
                stdout=stdout,
                stderr=self._stderr,
                pass_fds=pass_fds,
                env=environment,
                cwd=directory,
                start_new_session=session,
                process_group=None if session else 0,
                user=by_popen,
                group=by_popen,
                extra_groups=None if by_popen is None else list(supplementary),
                # System calls alone: nothing that another thread could hold.
                preexec_fn=partial(_prepare, groups, steps) if groups or any(steps) else None,
            )
        except BaseException:
            os.close(self._stderr)
            raise
        self.pid = self._process.pid
        _be_killed_first(self.pid)
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = loop.create_future()
        try:
            self._pidfd: int | None = os.pidfd_open(self.pid)
        except (OSError, AttributeError):
            self._pidfd = None
            self._waiter = asyncio.create_task(self._wait_in_thread())
        else:
            loop.add_reader(self._pidfd, self._reap)

    def kill(self) -> None:
        """SIGKILL the process group it leads; does nothing once it has been reaped."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                self._process.kill()

    def stderr(self) -> str:
        """The first bytes it wrote to standard error, for an error message."""
        return "" if self._stderr < 0 else first_bytes(self._stderr)

    def close(self) -> None:
        """Release the kept standard error."""
        if self._stderr >= 0:
            os.close(self._stderr)
            self._stderr = -1

    def _reap(self) -> None:
        assert self._pidfd is not None
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set_result(self._process.wait())

    async def _wait_in_thread(self) -> None:
        self.ended.set_result(await asyncio.to_thread(self._process.wait))


def first_bytes(stderr: int) -> str:
    """What was written to a file, for an error message."""
    return os.pread(stderr, STDERR_BYTES, 0).decode("utf-8", "replace").strip()


def _prepare(groups: tuple[int, ...], steps: tuple[Callable[[], None] | None, ...]) -> None:
    for descriptor in groups:
        os.write(descriptor, b"0")
    for step in steps:
        if step is not None:
            step()


def _enter(enter: Callable[[], None], dropped: tuple[int, list[int]] | None) -> None:
    enter()
    if dropped is not None:
        user, supplementary = dropped
        os.setgroups(supplementary)
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def _be_killed_first(process: int) -> None:
    """Where the host runs out of memory, the kernel is to end sandboxes before the daemon
    (proc(5), oom_score_adj). Inherited, so it comes before the program starts others: each of
    them waits to be told something first."""
    with suppress(OSError):  # not Linux
        Path(f"/proc/{process}/oom_score_adj").write_text(_KILLED_FIRST)


def _bond() -> Callable[[], None] | None:
    """What a child calls to be killed with its parent: PR_SET_PDEATHSIG, prctl(2)."""
    if sys.platform != "linux":
        return None
    import ctypes

    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def bond() -> None:
        prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could be asked
            os._exit(1)

    return bond


def _scratch() -> int:
    import tempfile

    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
