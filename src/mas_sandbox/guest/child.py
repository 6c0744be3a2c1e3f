"""What happens in the forked child of a call, from the fork to the exec or the exit."""

from __future__ import annotations

import os
import resource
import signal
import sys

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import WORKSPACE

from . import landlock, libc
from .directories import inside, open_beneath
from .files import Files
from .refusal import Refused
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from mas_sandbox.wire.messages import Call

    from .extensions import Extensions
    from .machine import Machine
    from .tools import Tool

REPORT_BYTES = 3072
"""A report fits the smallest pipe there is, one page, so that writing it never waits."""
DESCRIBE = "describe_extensions"
"""The reserved name that answers with the manifests of the operator's tools."""


class Plan:
    """All that a call's process needs. `stdout`, `stderr`, `value` and `report`: the
    ends of pipes to write to; `tool` is None for one of the operator's own."""

    __slots__ = (
        "call",
        "entropy",
        "environment",
        "extensions",
        "landlock",
        "machine",
        "report",
        "stderr",
        "stdout",
        "tool",
        "value",
        "workspace",
    )

    def __init__(
        self,
        call: Call,
        tool: Tool | None,
        extensions: Extensions | None,
        environment: dict[str, str],
        *,
        workspace: str,
        landlock: int,
        machine: Machine | None,
        entropy: str,
    ) -> None:
        self.call = call
        self.tool = tool
        self.extensions = extensions
        self.environment = environment
        self.workspace = workspace
        self.landlock = landlock
        self.machine = machine
        self.entropy = entropy
        self.stdout = self.stderr = self.value = self.report = -1


def become_call(plan: Plan, toolrunner: int) -> NoReturn:
    """Turn this freshly forked process into the call. `toolrunner`: its parent's id."""
    report = plan.report
    try:
        _leave_the_toolrunner(plan, toolrunner)
        _enter_the_call(plan)
        _run(plan)
    except BaseException as error:  # noqa: BLE001  # nothing may return into the parent's loop
        _report(report, error)
        _flush()
        os._exit(1)
    _flush()
    os._exit(0)


def _leave_the_toolrunner(plan: Plan, toolrunner: int) -> None:
    """Drop what is the toolrunner's: its descriptors first, then its protection."""
    signal.set_wakeup_fd(-1)
    os.setsid()
    if plan.machine is not None:
        plan.machine.become_guest()
    # A change of user would undo this.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != toolrunner:
        os._exit(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(plan.stdout, 1)
    os.dup2(plan.stderr, 2)
    _close_all_but(plan.value, plan.report)
    # The channel is closed. A process that is not dumpable could not read its own /proc.
    libc.prctl(libc.PR_SET_DUMPABLE, 1)
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def _close_all_but(*kept: int) -> None:
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def _enter_the_call(plan: Plan) -> None:
    call = plan.call
    os.umask(0o022)
    os.environ.clear()
    os.environ.update(plan.environment)
    _enter_directory(call.cwd, plan.workspace)
    _be_killed_first()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_NOFILE, call.nofile)
    if call.fsize_bytes:
        _limit(resource.RLIMIT_FSIZE, call.fsize_bytes)
    # No program gains rights by being run, so none is beyond the toolrunner's SIGKILL.
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    if plan.landlock:
        landlock.restrict(call.paths, plan.workspace, plan.landlock)


def _enter_directory(cwd: str, workspace: str) -> None:
    components = inside(cwd)
    if components is None:
        raise Refused(ErrorCode.INVALID_REQUEST, f"cwd {cwd[:200]!r} is not beneath {WORKSPACE}")
    try:
        descriptor = open_beneath(workspace, components)
        os.fchdir(descriptor)
    except FileNotFoundError as error:
        message = f"cwd {cwd[:200]!r} does not exist; create it first"
        raise Refused(ErrorCode.NOT_FOUND, message) from error
    except OSError as error:
        message = f"cwd {cwd[:200]!r} is no directory, or not without symbolic links: {error}"
        raise Refused(ErrorCode.INVALID_REQUEST, message) from error
    os.close(descriptor)


def _be_killed_first() -> None:
    """Where memory runs out, the kernel is to end the call and not the toolrunner."""
    try:
        descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
    except OSError:
        return  # no /proc, or not Linux: the memory limit holds all the same
    try:
        os.write(descriptor, b"1000")
    finally:
        os.close(descriptor)


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _run(plan: Plan) -> None:
    files = Files(plan.call.paths, plan.workspace)
    tool = plan.tool
    if tool is None:
        _write(plan.value, strict_json.dumps(_run_extension(plan, files)))
    elif tool.program is None:
        _write(plan.value, strict_json.dumps(tool.run(plan.call.args, files)))
    else:
        argv, kept = tool.program(plan.call.args, files)
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        # Python ignores these two; a program expects them to end it.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        os.execve(argv[0], argv, plan.environment)  # noqa: S606  # a tool's own argv


def _run_extension(plan: Plan, files: Files) -> object:
    """Run the operator's code; a traceback of it goes to stderr, for the operator."""
    extensions, call = plan.extensions, plan.call
    if call.tool == DESCRIBE:
        return extensions.describe() if extensions else []
    if extensions is None:
        raise Refused(ErrorCode.NOT_FOUND, f"no tool is named {call.tool[:80]!r}")
    # Sandboxes restored from one snapshot must not draw the same numbers.
    sys.modules["random"].seed(plan.entropy + os.urandom(32).hex())
    try:
        return extensions.run(call.tool, call.args, files)
    except (ToolFailure, MemoryError):
        raise
    except BaseException:
        import traceback

        traceback.print_exc()
        raise


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _report(descriptor: int, error: BaseException) -> None:
    match error:
        case ToolFailure() | Refused():
            code, message = error.code, error.message
        case MemoryError():
            code, message = ErrorCode.OUT_OF_MEMORY, "the tool ran out of memory"
        case _:
            code, message = ErrorCode.TOOL_FAILED, f"{type(error).__name__}: {error}"
    line = f"{code}\n{message}".encode("utf-8", "backslashreplace")
    try:
        os.write(descriptor, line[:REPORT_BYTES])
    except OSError:
        return  # the toolrunner is gone, and with it whoever would have read this


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            continue  # closed by the tool's own code
