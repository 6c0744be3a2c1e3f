"""Stopping a process's descendants one by one, where no control group holds them together.

The process itself goes on, so that it sees the end of the daemon and ends what it started:
SIGKILL reaches a stopped process (signal(7)).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

STOP_TIMEOUT_S = 5.0
_STILL = frozenset("TtZX")
"""States of a process that does not run: proc_pid_stat(5)."""


class StoppedTree:
    """What descends from `root`, a child of ours that takes in its own orphans."""

    def __init__(self, root: int) -> None:
        self._root = root
        self._stopped: list[int] = []

    def stop(self) -> None:
        """Return when none of them runs any more. Blocks.

        Raises SandboxError: `timeout` when they start others faster than they are stopped;
        those go on. `policy_unenforceable` where there is no /proc.
        """
        deadline = time.monotonic() + STOP_TIMEOUT_S
        try:
            while running := [each for each, state in self._tree() if state not in _STILL]:
                if time.monotonic() > deadline:
                    raise SandboxError(
                        ErrorCode.TIMEOUT,
                        f"the sandbox did not come to a stop within {STOP_TIMEOUT_S:g} s and "
                        "goes on; try again when it does less",
                    )
                self._signal(running)
                time.sleep(0.002)
        except FileNotFoundError as error:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                "a sandbox of runtime local can be paused on Linux only",
            ) from error
        except SandboxError:
            self.go_on()
            raise

    def go_on(self) -> None:
        """Let go of all that was stopped; what had stopped by itself stays so."""
        stopped, self._stopped = self._stopped, []
        ours = {process for process, _ in self._tree()} if stopped else set()
        for process in stopped:
            if process in ours:  # and not another of its number
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    def _signal(self, running: list[int]) -> None:
        for process in running:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
                if process not in self._stopped:
                    self._stopped.append(process)

    def _tree(self) -> list[tuple[int, str]]:
        """Each descendant and its state."""
        children: dict[int, list[tuple[int, str]]] = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with suppress(FileNotFoundError, ProcessLookupError):
                    fields = (place / "stat").read_text().rpartition(")")[2].split()
                    children.setdefault(int(fields[1]), []).append((int(place.name), fields[0]))
        found = list(children.get(self._root, ()))
        for process, _ in found:  # it grows as it is read
            found += children.get(process, ())
        return found
