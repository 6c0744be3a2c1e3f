"""The keepers of one toolrunner: how one is started, and how one is kept ready.

As with calls (`launcher`): forking depends on nothing that the host says, so while nothing
runs, a keeper is started ahead whose process waits to be told what it is to become.
"""

from __future__ import annotations

import _socket
import marshal
import os
import sys

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.frames import FROM_HOST, FrameParser, Kind, encode
from mas_sandbox.wire.messages import Call
from mas_sandbox.wire.process import SHELL, Process

from . import environment, processes
from .child import Plan, prepare, read_all, rehearse
from .keeper import become_keeper, become_program
from .launcher import MAX_MESSAGE
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .child import Streams
    from .loop import Settings
    from .machine import Machine


class Kept:
    """A keeper, and our ends: `line` to talk to it; `outputs` to read, which never wait, and
    the kind of frame each travels in; `input_end` to write to; `terminal`: the output that
    is one, -1 where none is."""

    __slots__ = ("input_end", "line", "outputs", "pid", "terminal")

    def __init__(
        self, pid: int, line: int, outputs: dict[int, Kind], input_end: int, terminal: int
    ) -> None:
        for descriptor in (line, *outputs):
            os.set_blocking(descriptor, False)
        self.pid = pid
        self.line = line
        self.outputs = outputs
        self.input_end = input_end
        self.terminal = terminal


class Keepers:
    """`pids`: of all that are not reaped, the one that waits among them."""

    def __init__(self, settings: Settings) -> None:
        self.pids: set[int] = set()
        self._settings = settings
        self._spare: tuple[Kept, int] | None = None

    @property
    def ready(self) -> bool:
        return self._spare is not None or sys.platform != "linux"

    def prepare(self) -> None:
        """Have one ready. Where none can be had, the next START says so."""
        settings = self._settings
        told, telling = os.pipe()

        def wait() -> None:
            ruleset = prepare(settings.landlock, settings.workspace)
            rehearse(_told(_rehearsed(settings), settings)[0])
            message = read_all(told)
            if message:
                plan, argv = _told(message, settings)
                become_program(plan, argv, ruleset)

        try:
            self._spare = self._start(settings.machine, None, wait, told), telling
        except Refused:
            os.close(telling)
        else:
            _rehearsed(settings)  # as `Launcher` does: our memory is our own again
        os.close(told)

    def discard(self) -> bool:
        """End the one that waits; whether there was one."""
        if self._spare is None:
            return False
        (kept, telling), self._spare = self._spare, None
        _close_all([telling, kept.line, kept.input_end, *kept.outputs])
        self.pids.discard(kept.pid)
        processes.end(kept.pid)  # and its process with it: both are orphans, to be reaped
        return True

    def start(self, plan: Plan, process: Process) -> Kept:
        """Raises Refused when there is no process, descriptor or terminal to be had."""
        kept = None if process.pty else self._take(plan, process.argv)
        if kept is not None:
            return kept
        self.discard()

        def go() -> None:
            become_program(plan, process.argv, prepare(plan.landlock, plan.workspace))

        return self._start(plan.machine, process.pty, go)

    def _take(self, plan: Plan, argv: list[str]) -> Kept | None:
        """The one that waits, told what it is to keep."""
        if self._spare is None:
            return None
        call = plan.call
        message = marshal.dumps(
            (argv, plan.environment, call.cwd, call.paths, call.nofile, plan.mounts)
        )
        if len(message) > MAX_MESSAGE:
            return None
        kept, telling = self._spare
        try:
            os.write(telling, message)
        except OSError:
            return None  # it is gone
        self._spare = None
        os.close(telling)
        return kept

    def _start(
        self,
        machine: Machine | None,
        size: tuple[int, int] | None,
        follow: Callable[[], None],
        *inherited: int,
    ) -> Kept:
        opened: list[int] = []
        try:
            opened += (end.detach() for end in _socket.socketpair())
            line, theirs = opened
            streams, outputs, input_end = _open(machine, size, opened)
            pid = os.fork()
        except OSError as error:
            _close_all(opened)
            message = f"no process could be started: {error.strerror}; end others first"
            raise Refused(ErrorCode.TOOL_FAILED, message) from error
        if pid == 0:
            become_keeper(machine, follow, inherited, streams, list(outputs), theirs)
        self.pids.add(pid)
        _close_all({theirs, *streams})
        return Kept(pid, line, outputs, input_end, -1 if size is None else min(outputs))


def _open(
    machine: Machine | None, size: tuple[int, int] | None, opened: list[int]
) -> tuple[Streams, dict[int, Kind], int]:
    """Standard streams, and our ends to read and to write; all are noted in `opened`."""
    if size is None:
        pipes = []
        for _ in range(3):
            pipes.append(os.pipe())
            opened += pipes[-1]
        (stdin, input_end), (output, stdout), (errors, stderr) = pipes
        return (stdin, stdout, stderr), {output: Kind.STDOUT, errors: Kind.STDERR}, input_end
    from .terminal import open_terminal

    ours, theirs = open_terminal(*size)
    opened += (ours, theirs)
    if machine is not None:
        machine.give(theirs)
    input_end = os.dup(ours)  # polled for itself
    opened.append(input_end)
    return (theirs, theirs, theirs), {ours: Kind.STDOUT}, input_end


def _rehearsed(settings: Settings) -> bytes:
    """What it would be told for a START, by way of all that comes before."""
    process = Process([SHELL])
    for _, _, payload in FrameParser(FROM_HOST).feed(encode(Kind.START, 1, process.encode())):
        process = Process.parse(payload)
    built = environment.build({}, settings.workspace, settings.temporary)
    told = process.argv, built, process.cwd, process.paths, process.nofile, settings.mounts
    return marshal.dumps(told)


def _told(message: bytes, settings: Settings) -> tuple[Plan, list[str]]:
    told = marshal.loads(message)  # noqa: S302  # the toolrunner's own words
    argv, variables, cwd, paths, nofile, mounts = told
    plan = Plan(
        Call("", {}, cwd=cwd, paths=paths, nofile=nofile),
        None,
        None,
        variables,
        workspace=settings.workspace,
        landlock=settings.landlock,
        machine=settings.machine,
        entropy="",
        mounts=mounts,
    )
    return plan, argv


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
