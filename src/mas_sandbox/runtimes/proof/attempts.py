"""The table of the self-test: for each control, how it is attacked and what shows that it held.

An attempt is one call in a real sandbox, and does no harm when it succeeds. Where something
of the host's is at stake, the host is what is looked at; of what was tried inside alone,
the program itself tells how far it got, and one that did not get to tell proves nothing.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from textwrap import dedent
from typing import TYPE_CHECKING

from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import WORKSPACE
from mas_sandbox.wire.messages import Call

from ..cgroup_limits import PERIOD_US
from . import programs
from .programs import (
    CPU_MS,
    CPUS,
    DISK_FILES,
    DISK_MB,
    GIVEN,
    IOPS,
    MEM_MB,
    NOFILE,
    OUTPUT_BYTES,
    PIDS,
    READS,
)

if TYPE_CHECKING:
    from .stage import Stage

TIMEOUT_MS = 20_000


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a call. `code` and `message` where it failed or raised; `cpu_ms` and
    `wall_ms` are the host's own measure, `cpu_ms` None where nothing on the host counts."""

    stdout: str = ""
    code: ErrorCode | None = None
    message: str = ""
    cpu_ms: float | None = None
    wall_ms: float = 0.0


class Untried(Exception):
    """The attempt did not get as far as to prove anything."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attack. `tries`: in words; `broke`: what went wrong, empty where the control held.
    It raises Untried. `alone`: no other call may run in its sandbox meanwhile."""

    control: Control
    tries: str
    call: Callable[[Stage], Call]
    broke: Callable[[Stage, Seen], str]
    alone: bool = False


def _bash(command: str, timeout_ms: int = TIMEOUT_MS, output_bytes: int = 1 << 20) -> Call:
    return Call("bash", {"command": command}, timeout_ms=timeout_ms, output_bytes=output_bytes)


def _python(code: str, nofile: int = 1024, cpu_ms: int = 0) -> Call:
    arguments = {"code": dedent(code)}
    return Call("python", arguments, timeout_ms=TIMEOUT_MS, nofile=nofile, cpu_ms=cpu_ms)


def _told(seen: Seen, word: str) -> float:
    """The number that the program printed after a word, in whatever else it said."""
    for line in seen.stdout.splitlines():
        name, _, value = line.partition(" ")
        if name == word:
            return float(value)
    raise Untried(f"the attempt ended early: {seen.message or seen.stdout[-200:] or 'in silence'}")


def _at_most(limit: int, what: str) -> Callable[[Stage, Seen], str]:
    def broke(_: Stage, seen: Seen) -> str:
        made = _told(seen, "made")
        return f"{made:g} {what} at a limit of {limit}" if made > limit else ""

    return broke


def _outlived(_: Stage, seen: Seen) -> str:
    return "" if seen.code is ErrorCode.TIMEOUT else "a call went on past its deadline"


def _flooded(_: Stage, seen: Seen) -> str:
    if seen.code is ErrorCode.OUTPUT_LIMIT and len(seen.stdout) <= OUTPUT_BYTES:
        return ""
    return f"{len(seen.stdout)} bytes came out at a limit of {OUTPUT_BYTES}"


def _spied(stage: Stage, seen: Seen, what: str) -> str:
    if stage.secret in seen.stdout:
        return f"{what} could be read"
    _told(seen, "tried")
    return ""


def _read_environment(stage: Stage, seen: Seen) -> str:
    return _spied(stage, seen, "the daemon's environment")


def _read_or_wrote(stage: Stage, seen: Seen) -> str:
    if stage.escaped():
        return "a file was written on the host"
    return _spied(stage, seen, "a file of the host's")


def _connected(stage: Stage, seen: Seen) -> str:
    if stage.reached():
        return "a socket of the host's was reached"
    _told(seen, "tried")
    return ""


def _saw_or_killed(stage: Stage, seen: Seen) -> str:
    if stage.victim.poll() is not None:
        return "a process of the host's was killed"
    return _spied(stage, seen, "a process of the host's")


def _changed_given(stage: Stage, seen: Seen) -> str:
    if not stage.given_is_whole():
        return "a directory that was given read-only was written to"
    if "given" not in seen.stdout:
        return "a host directory does not appear inside"
    _told(seen, "tried")
    return ""


def _succeeded(what: str) -> Callable[[Stage, Seen], str]:
    def broke(_: Stage, seen: Seen) -> str:
        done = [line for line in seen.stdout.splitlines() if line.startswith("broke ")]
        if done:
            return f"{what}: {done[0].removeprefix('broke ')}"
        _told(seen, "tried")
        return ""

    return broke


def _allocated(_: Stage, seen: Seen) -> str:
    if "allocated" in seen.stdout:
        return f"{2 * MEM_MB} MiB were used at a limit of {MEM_MB}"
    if seen.code is ErrorCode.OUT_OF_MEMORY or "MemoryError" in seen.message:
        return ""
    raise Untried(f"the attempt ended early: {seen.message or 'in silence'}")


def _spun(_: Stage, seen: Seen) -> str:
    if seen.cpu_ms is None:
        raise Untried("nothing on this host counts what a sandbox uses")
    _told(seen, "tried")
    allowed = CPUS * (seen.wall_ms + PERIOD_US / 1000) * 1.2
    if seen.cpu_ms > allowed:
        return f"{seen.cpu_ms:.0f} ms of processor time in {seen.wall_ms:.0f} ms at {CPUS:g} cpus"
    return ""


def _overspent(_: Stage, seen: Seen) -> str:
    held = seen.code is ErrorCode.TIMEOUT and "processor time" in seen.message
    return "" if held else f"a call went on past {CPU_MS} ms of processor time"


def _read_fast(_: Stage, seen: Seen) -> str:
    took = _told(seen, "took")
    least = 0.8 * (READS - IOPS / 10) / IOPS  # a tenth of a second's worth may go at once
    return f"{READS} reads took {took:.2f} s at {IOPS} iops" if took < least else ""


# Those that may cost their sandbox come last.
ATTEMPTS: tuple[Attempt, ...] = (
    Attempt(
        Control.OUTPUT,
        "prints more than it may",
        lambda _: _bash("head -c 200000 /dev/zero | tr '\\0' x", output_bytes=OUTPUT_BYTES),
        _flooded,
    ),
    Attempt(
        Control.ENV,
        "looks for a word of the daemon's environment in every environment that it can read",
        lambda _: _bash("env; cat /proc/[0-9]*/environ 2>/dev/null; echo; echo tried 1"),
        _read_environment,
    ),
    Attempt(
        Control.FILESYSTEM,
        "reads a file of the host's by its path and through /proc, and writes beside it",
        lambda stage: _bash(
            f"cat {_quoted(stage.sentinel)} /proc/1/root/{_quoted(stage.sentinel)} 2>/dev/null;"
            f" (echo x > {_quoted(stage.open)}/escaped) 2>/dev/null; echo; echo tried 1"
        ),
        _read_or_wrote,
    ),
    Attempt(
        Control.PATHS,
        "writes in the workspace beside the one directory that it was granted",
        lambda _: Call(
            "bash",
            {"command": "echo x > refused && echo broke write; echo tried 1"},
            timeout_ms=TIMEOUT_MS,
            paths=[(f"{WORKSPACE}/granted", "rw")],
        ),
        _succeeded("a path that was not granted could be changed"),
    ),
    Attempt(
        Control.HOST_PATHS,
        "writes, makes directories and changes modes in a host directory that it may only read",
        lambda _: Call(
            "bash",
            {
                "command": f"cat {GIVEN}/seen; (echo x > {GIVEN}/new; mkdir {GIVEN}/directory;"
                f" chmod 777 {GIVEN}/seen; echo x >> {GIVEN}/seen) 2>/dev/null; echo; echo tried 1"
            },
            timeout_ms=TIMEOUT_MS,
            paths=[(WORKSPACE, "rw"), (GIVEN, "rw")],
        ),
        _changed_given,
    ),
    Attempt(
        Control.NETWORK,
        "connects to TCP, UDP and Unix sockets that listen on the host",
        lambda stage: _python(programs.CONNECT.format(ports=stage.ports, paths=_sockets(stage))),
        _connected,
    ),
    Attempt(
        Control.PROCESSES,
        "looks for a process of the host's among all that it sees, and kills it by its id",
        lambda stage: _bash(
            "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; echo; echo tried 1;"
            f" kill -9 {stage.victim.pid} 2>/dev/null"
        ),
        _saw_or_killed,
    ),
    Attempt(
        Control.SYSCALLS,
        "asks for an io_uring, a copy of the file tree, a file system and a mount namespace",
        lambda _: _python(programs.CALL_SYSTEM),
        _succeeded("a system call that should be refused was answered"),
    ),
    Attempt(
        Control.NOFILE,
        "raises its own limit of open files, then opens more than it may",
        lambda _: _python(programs.OPEN, nofile=NOFILE),
        _at_most(NOFILE, "files were open"),
    ),
    Attempt(
        Control.PIDS,
        "forks until it is refused",
        lambda _: _python(programs.FORK),
        _at_most(PIDS, "processes ran"),
        alone=True,
    ),
    Attempt(
        Control.MEMORY,
        "allocates and touches twice what it may",
        lambda _: _python(programs.ALLOCATE),
        _allocated,
        alone=True,
    ),
    Attempt(
        Control.DISK,
        "writes three times what it may, to /workspace and to /tmp",
        lambda _: _python(programs.WRITE),
        _at_most(DISK_MB << 20, "bytes were written"),
        alone=True,
    ),
    Attempt(
        Control.DISK_FILES,
        "makes three times the files that it may, in /workspace and in /tmp",
        lambda _: _python(programs.CREATE),
        _at_most(DISK_FILES, "files were made"),
        alone=True,
    ),
    Attempt(
        Control.CPU_TIME,
        "spends processor time in short-lived children that nobody waits for",
        lambda _: _python(programs.SPEND, cpu_ms=CPU_MS),
        _overspent,
        alone=True,
    ),
    Attempt(
        Control.TIMEOUT,
        "sleeps past its deadline, in a second session and deaf to SIGTERM",
        lambda _: _bash("trap '' TERM; (setsid sleep 60 &); sleep 60", timeout_ms=200),
        _outlived,
        alone=True,
    ),
    Attempt(
        Control.CPU,
        f"spins in {programs.SPINNERS} processes on {CPUS:g} of a processor",
        lambda _: _python(programs.SPIN),
        _spun,
        alone=True,
    ),
    Attempt(
        Control.IO,
        "reads from a block device past the page cache, faster than it may",
        lambda _: _python(programs.READ),
        _read_fast,
        alone=True,
    ),
)


def _quoted(path: object) -> str:
    return shlex.quote(str(path))


def _sockets(stage: Stage) -> list[str]:
    return [stage.address, str(stage.open / "socket")]
