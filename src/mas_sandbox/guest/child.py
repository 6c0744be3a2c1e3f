"""What happens in the forked child of a call, from the fork to the exec or the exit."""

from __future__ import annotations

import errno
import marshal
import os
import resource
import signal
import sys

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import WORKSPACE
from mas_sandbox.wire.messages import Call

from . import landlock, libc, tools
from .directories import inside, open_beneath
from .files import Files
from .refusal import Refused
from .signals import restore_defaults
from .tools import ToolFailure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from .extensions import Extensions
    from .loop import Settings
    from .machine import Machine
    from .tools import Tool

    Ends = list[int]
    """Four to write to: stdout, stderr, the tool's value, and what went wrong; where the
    tool reads its input, a fifth to read it from."""
    Streams = tuple[int, int, int]
    """Standard input, /dev/null where it is -1, output and error."""

REPORT_BYTES = 3072
"""A report fits the smallest pipe there is, one page, so that writing it never waits."""
DESCRIBE = "describe_extensions"
"""The reserved name that answers with the manifests of the operator's tools."""


class Plan:
    """What a call's process is to do, and where. `tool` is None for one of the operator's own."""

    __slots__ = (
        "call",
        "entropy",
        "environment",
        "extensions",
        "landlock",
        "machine",
        "mounts",
        "tool",
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
        mounts: list[str],
    ) -> None:
        self.call = call
        self.tool = tool
        self.extensions = extensions
        self.environment = environment
        self.workspace = workspace
        self.landlock = landlock
        self.machine = machine
        self.entropy = entropy
        self.mounts = mounts

    def told(self) -> bytes:
        """What a process that waits must be told; `_told_plan` reads it."""
        call = self.call
        limits = call.nofile, call.fsize_bytes, call.cpu_ms
        told = call.tool, call.args, call.cwd, call.paths, self.environment, limits, self.mounts
        return marshal.dumps(told)


def plan_of(call: Call, settings: Settings, environment: dict[str, str]) -> Plan:
    """That of a call of a built-in tool."""
    return Plan(
        call,
        tools.load(call.tool),
        None,
        environment,
        workspace=settings.workspace,
        landlock=settings.landlock,
        machine=settings.machine,
        entropy="",
        mounts=settings.mounts,
    )


def become_call(plan: Plan, ends: Ends, toolrunner: int) -> NoReturn:
    """Turn this freshly forked process into the call. `toolrunner`: its parent's id."""
    try:
        stdout, stderr, value, report, *reading = ends
        streams = reading[0] if reading else -1, stdout, stderr
        leave_the_toolrunner(plan.machine, streams, toolrunner, value, report)
        ruleset = prepare(plan.landlock, plan.workspace)
        _be_the_call(plan, ruleset, value)
    except BaseException as error:  # noqa: BLE001  # nothing may return into the parent's loop
        fail(ends[3], error)


def become_spare(
    told: int,
    rehearsing: int,
    rehearsal: Call | None,
    ends: Ends,
    settings: Settings,
    toolrunner: int,
) -> NoReturn:
    """Turn this freshly forked process into whatever call `told` tells of, once it does.

    `rehearsing`: closed when it waits; `rehearsal`: a call to have gone through until then.
    """
    try:
        streams = -1, ends[0], ends[1]
        leave_the_toolrunner(settings.machine, streams, toolrunner, *ends[2:], told, rehearsing)
        ruleset = prepare(settings.landlock, settings.workspace)
        if rehearsal is not None:
            _rehearse(rehearsal, settings)
        os.close(rehearsing)
        message = read_all(told)
        if not message:
            os._exit(0)
        _be_the_call(_told_plan(message, settings), ruleset, ends[2])
    except BaseException as error:  # noqa: BLE001  # nothing may return into the parent's loop
        fail(ends[3], error)


def _be_the_call(plan: Plan, ruleset: int, value: int) -> NoReturn:
    keep_orphans()
    enter(plan, ruleset)
    _run(plan, value)
    _flush()
    os._exit(0)


def fail(report: int, error: BaseException) -> NoReturn:
    """Say why there will be nothing, and end."""
    _report(report, error)
    _flush()
    os._exit(1)


def leave_the_toolrunner(
    machine: Machine | None, streams: Streams, parent: int, *kept: int, session: bool = True
) -> None:
    """Drop what is the toolrunner's: its descriptors first, then its protection. `parent`:
    with whom this process is to end; `kept`: descriptors, besides the standard three;
    `session`: whether to have one of its own, and not only a process group."""
    signal.set_wakeup_fd(-1)
    os.setsid() if session else os.setpgid(0, 0)
    if machine is not None:
        machine.become_guest()
    # A change of user would undo this.
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    stdin, stdout, stderr = streams
    os.dup2(os.open(os.devnull, os.O_RDONLY) if stdin < 0 else stdin, 0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    close_all_but(*kept)
    restore_defaults()


def keep_orphans() -> bool:
    """Have what descends from this process stay beneath it; whether that can be had."""
    try:
        libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)
    except OSError as error:
        # gVisor lets nobody be a subreaper but its first process, the toolrunner, which is
        # one already: there what a call orphans may end with another call.
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def close_all_but(*kept: int) -> None:
    low = 3
    for descriptor in sorted(kept):
        os.closerange(low, descriptor)
        low = descriptor + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def prepare(version: int, workspace: str) -> int:
    """What every call's process is. Returns a ruleset of Landlock's to go on with, -1 for none."""
    os.umask(0o022)
    _limit(resource.RLIMIT_CORE, 0)
    # No program gains rights by being run, so none is beyond the toolrunner's SIGKILL.
    libc.prctl(libc.PR_SET_NO_NEW_PRIVS, 1)
    return landlock.begin(version, workspace) if version else -1


def enter(plan: Plan, ruleset: int) -> None:
    """Go where the call is to run, and put its limits and walls up."""
    call = plan.call
    # The channel is closed. A process that is not dumpable could not read its own /proc.
    libc.prctl(libc.PR_SET_DUMPABLE, 1)
    _be_killed_first()
    _enter_directory(call, plan.workspace)
    _limit(resource.RLIMIT_NOFILE, call.nofile)
    if call.fsize_bytes:
        _limit(resource.RLIMIT_FSIZE, call.fsize_bytes)
    if call.cpu_ms:
        # Each process, where the toolrunner's count of all of them should fail.
        _limit(resource.RLIMIT_CPU, call.cpu_ms // 1000 + 2)
    if plan.landlock:
        landlock.allow(ruleset, call.paths, plan.workspace, plan.landlock, plan.mounts)
        landlock.enforce(ruleset)


def _enter_directory(call: Call, workspace: str) -> None:
    cwd, root = call.cwd, workspace
    components = inside(cwd)
    if components is None:
        if not any(f"{cwd}/".startswith(f"{path.rstrip('/')}/") for path, _ in call.paths):
            message = f"cwd {cwd[:200]!r} is not beneath {WORKSPACE} or a granted path"
            raise Refused(ErrorCode.INVALID_REQUEST, message)
        root, components = "/", [part for part in cwd.split("/") if part not in ("", ".")]
    try:
        descriptor = open_beneath(root, components)
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


def _run(plan: Plan, value: int) -> None:
    files = Files(plan.call.paths, plan.workspace)
    tool = plan.tool
    if tool is None:
        _write(value, strict_json.dumps(_run_extension(plan, files)))
    elif tool.program is None:
        if tool.networked:
            _take_environment(plan)
        _write(value, strict_json.dumps(tool.run(plan.call.args, files)))
    else:
        argv, kept = tool.program(plan.call.args, files)
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        execute([argv[0]], argv, plan.environment)


def execute(paths: list[str], argv: list[str], environment: dict[str, str]) -> None:
    """Become the first program of `paths` that is there. Raises OSError."""
    # Python ignores these two; a program expects them to end it.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    for position, path in enumerate(paths, start=1):
        try:
            os.execve(path, argv, environment)  # noqa: S606  # a tool's own argv
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            if position == len(paths):
                raise


def _run_extension(plan: Plan, files: Files) -> object:
    """Run the operator's code; a traceback of it goes to stderr, for the operator."""
    extensions, call = plan.extensions, plan.call
    _take_environment(plan)
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


def _take_environment(plan: Plan) -> None:
    os.environ.clear()
    os.environ.update(plan.environment)


def _told_plan(message: bytes, settings: Settings) -> Plan:
    told = marshal.loads(message)  # noqa: S302  # the toolrunner's own words
    tool, args, cwd, paths, environment, (nofile, fsize_bytes, cpu_ms), mounts = told
    call = Call(
        tool, args, cpu_ms=cpu_ms, nofile=nofile, fsize_bytes=fsize_bytes, cwd=cwd, paths=paths
    )
    plan = plan_of(call, settings, environment)
    plan.mounts = mounts  # of now: the settings are those of the fork
    return plan


def _rehearse(call: Call, settings: Settings) -> None:
    plan = _told_plan(plan_of(call, settings, {}).told(), settings)
    rehearse(plan)
    if plan.tool is not None:
        strict_json.dumps(plan.tool.run(plan.call.args, Files(call.paths, settings.workspace)))


def rehearse(plan: Plan) -> None:
    """Do what `enter` does, and change nothing: the pages of memory that this writes to are
    then this process's own before it is told what it is to become."""
    if plan.landlock:
        ruleset = landlock.begin(plan.landlock, plan.workspace)
        landlock.allow(ruleset, plan.call.paths, plan.workspace, plan.landlock, plan.mounts)
        os.close(ruleset)
    _limit(resource.RLIMIT_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    _enter_directory(plan.call, plan.workspace)


def read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 65536):
        pieces.append(piece)
    os.close(descriptor)
    return b"".join(pieces)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _report(descriptor: int, error: BaseException) -> None:
    reason = ""
    match error:
        case ToolFailure() | Refused():
            code, message = error.code, error.message
            reason = error.reason if isinstance(error, ToolFailure) else ""
        case MemoryError():
            code, message = ErrorCode.OUT_OF_MEMORY, "the tool ran out of memory"
        case _:
            code, message = ErrorCode.TOOL_FAILED, f"{type(error).__name__}: {error}"
    # `calls.reported` reads it.
    line = f"{code} {reason}\n{message}".encode("utf-8", "backslashreplace")
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
