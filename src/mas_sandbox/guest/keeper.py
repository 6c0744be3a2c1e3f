"""The process above one that the host started: it waits for all that descends from it.

A keeper is a subreaper (prctl(2)), so what its process leaves in the background stays
beneath it and is nobody's orphan. It tells the toolrunner how the process ended, passes
signals on while that one's number is its own, and ends when nothing is left beneath it.
When the toolrunner is gone it ends all of that, and then itself.

gVisor has no subreapers, and its terminals make no signals. There the keeper leads the
session of its process, which tells who is an orphan of whom (`adoption`), and from inside
which it can see who is in the terminal's foreground.

Behind Landlock nothing beneath it can signal it (ABI 6), nor in a machine of its own, where
it is root. Elsewhere who kills it ends its process, and makes orphans of the rest.
"""

from __future__ import annotations

import os
import select
import signal
import struct

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.process import SHELL

from . import processes
from .child import (
    REPORT_BYTES,
    close_all_but,
    enter,
    execute,
    fail,
    keep_orphans,
    leave_the_toolrunner,
)
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from .child import Plan, Streams
    from .machine import Machine

# What a keeper says, as HEADER and that many bytes.
HEADER = struct.Struct("!BH")
STARTED, FAILED, ENDED = range(3)
START = struct.Struct("!I?")
"""STARTED: the process's id; whether what it orphans stays with the keeper."""
END = struct.Struct("!iQQ")
"""ENDED: the status of wait(2), microseconds of processor time, kilobytes at most."""
# FAILED: as `calls.reported` reads it.

# What a keeper is told, each in one byte: a signal, to 64, for the process's group, or one
# for the terminal's foreground, or:
KILL, DROP = 0, 255
"""End all that is beneath; drop what is written from now on."""
FOREGROUND = 128
"""Added to the signal."""
_MAX_SIGNAL = 64
_BASH = "/bin/bash"


def become_keeper(
    machine: Machine | None,
    follow: Callable[[], None],
    inherited: tuple[int, ...],
    streams: Streams,
    outputs: list[int],
    line: int,
) -> NoReturn:
    """Turn this freshly forked process into a keeper, and start what it keeps.

    `follow`: what the process does once it has left the toolrunner, with the descriptors
    `inherited` still open; `outputs`: where what it writes is read, should nobody else do so
    any more; `line`: to the toolrunner, a stream socket.
    """
    try:
        os.setsid()
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nothing, standard)
        bell, ringer = os.pipe()
        os.set_blocking(bell, False)
        os.set_blocking(ringer, False)
        signal.set_wakeup_fd(ringer, warn_on_full_buffer=False)
        keeps = keep_orphans()
        if not keeps and os.isatty(streams[0]):
            _take_control(streams[0])
        reports, report = os.pipe()
        keeper = os.getpid()
        main = _fork(line)
        if main == 0:
            _become_process(machine, follow, streams, keeper, report, inherited, session=keeps)
        kept = [] if keeps or not os.isatty(streams[0]) else [streams[0]]
        close_all_but(line, bell, ringer, reports, *outputs, *kept)
        _Keeper(main, line, bell, reports, outputs, kept, subreaper=keeps).run()
    finally:
        os._exit(0)  # nothing may return into the toolrunner's loop


def _fork(line: int) -> int:
    try:
        return os.fork()
    except OSError as error:
        message = f"no process could be started: {error.strerror}; end others first"
        _say(line, FAILED, f"{ErrorCode.TOOL_FAILED} \n{message}".encode())
        os._exit(1)


def _become_process(
    machine: Machine | None,
    follow: Callable[[], None],
    streams: Streams,
    keeper: int,
    report: int,
    inherited: tuple[int, ...],
    *,
    session: bool,
) -> NoReturn:
    try:
        leave_the_toolrunner(machine, streams, keeper, report, *inherited, session=session)
        if os.isatty(0):
            _take_control(0) if session else _come_forward()
        follow()
    except BaseException as error:  # noqa: BLE001  # nothing may return into the keeper
        fail(report, error)
    os._exit(0)


def _take_control(descriptor: int) -> None:
    from .terminal import take_control  # imported by the toolrunner, for this one

    take_control(descriptor)


def _come_forward() -> None:
    """Be the terminal's foreground, as a session's leader would be."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # tcsetpgrp(3), of the background
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def become_program(plan: Plan, argv: list[str], ruleset: int) -> NoReturn:
    """Enter the sandbox's walls as a call does, and run the program in them."""
    enter(plan, ruleset)
    program, environment = argv[0], plan.environment
    if program == SHELL:
        program = _BASH if os.access(_BASH, os.X_OK) else "/bin/sh"
        argv = [program, *argv[1:]]
    paths = [f"{directory}/{program}" for directory in environment["PATH"].split(":")]
    try:
        execute([program] if "/" in program else paths, argv, environment)
    except FileNotFoundError as error:
        message = f"there is no program {program[:200]!r}, or not what is to interpret it"
        raise ToolFailure(message, "not_found", "not_found") from error
    except OSError as error:
        message = f"{program[:200]!r} cannot be run: {error.strerror}"
        reason = "permission" if isinstance(error, PermissionError) else ""
        raise ToolFailure(message, reason=reason) from error
    raise AssertionError("execve returned")


class _Keeper:
    def __init__(
        self,
        main: int,
        line: int,
        bell: int,
        reports: int,
        outputs: list[int],
        terminals: list[int],
        *,
        subreaper: bool,
    ) -> None:
        self._main = main
        self._line = line
        self._bell = bell
        self._reports = reports
        self._outputs = outputs
        self._subreaper = subreaper
        self._terminals = terminals
        self._ended = self._started = self._killing = False
        self._early: list[int] = []
        self._poll = select.poll()
        for descriptor in (line, bell, reports):
            self._poll.register(descriptor, select.POLLIN)

    def run(self) -> None:
        while not self._reap():
            if self._killing:
                # The process is reaped where its usage is taken.
                processes.end_orphans(() if self._ended else (self._main,))
            for descriptor, _ in self._poll.poll():
                if descriptor == self._line:
                    self._listen()
                elif descriptor == self._bell:
                    os.read(self._bell, 4096)
                elif descriptor == self._reports:
                    self._hear_report()
                else:
                    self._drop(descriptor)

    def _reap(self) -> bool:
        """Whether nothing is left to do."""
        try:
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return False
                if pid == self._main:
                    self._ended = True
                    while self._terminals:
                        os.close(self._terminals.pop())
                    if self._reports >= 0:
                        self._hear_report()  # first: why there was nothing to run
                    _say(self._line, ENDED, END.pack(status, *processes.used(usage)))
        except ChildProcessError:
            # Nobody is beneath, and where orphans go elsewhere they may still write.
            return self._subreaper or self._killing or not self._outputs

    def _listen(self) -> None:
        for command in os.read(self._line, 256) or bytes([KILL]):
            if command == KILL:
                self._kill()
            elif command == DROP:
                for output in self._outputs:
                    os.set_blocking(output, False)
                    self._poll.register(output, select.POLLIN)
            elif command > FOREGROUND:
                self._signal_foreground(command - FOREGROUND)
            elif command <= _MAX_SIGNAL:
                self._signal(command)

    def _kill(self) -> None:
        self._killing = True
        if not self._ended:
            processes.kill(self._main)

    def _signal(self, number: int) -> None:
        if not self._started:
            self._early.append(number)  # what would take it now is not the program yet
        elif not self._ended:
            try:
                os.killpg(self._main, number)
            except OSError:
                return  # it has ended meanwhile, or there is no such signal

    def _signal_foreground(self, number: int) -> None:
        for terminal in self._terminals:
            try:
                os.killpg(os.tcgetpgrp(terminal), number)
            except OSError:
                return  # nobody is there now

    def _hear_report(self) -> None:
        """The process reports its failure, or has become the program."""
        said = os.read(self._reports, REPORT_BYTES)
        self._poll.unregister(self._reports)
        os.close(self._reports)
        self._reports = -1
        if said:
            _say(self._line, FAILED, said)
            return
        self._started = True
        _say(self._line, STARTED, START.pack(self._main, self._subreaper))
        for number in self._early:
            self._signal(number)

    def _drop(self, output: int) -> None:
        try:
            if os.read(output, 65536):
                return
        except BlockingIOError:
            return
        except OSError:
            pass  # EIO: nobody has the terminal open any more
        self._poll.unregister(output)
        self._outputs.remove(output)
        os.close(output)


def _say(line: int, kind: int, payload: bytes = b"") -> None:
    try:
        os.write(line, HEADER.pack(kind, len(payload)) + payload)
    except OSError:
        return  # the toolrunner is gone, which the end of the line says too
