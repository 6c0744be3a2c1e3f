"""`mas-sandbox exec` and `shell`: programs in a sandbox, as if they ran here."""

from __future__ import annotations

import os
import posixpath
import sys
from contextlib import ExitStack
from functools import cache
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.api.live import Started
from mas_sandbox.sdk.errors import InvalidRequest, NotFound, ToolFailed
from mas_sandbox.wire.errors import SandboxError
from mas_sandbox.wire.isolation import WORKSPACE

from .chosen import DaemonUrl, SandboxId, Token
from .complete import sandbox_ids
from .create import Asked
from .relay import LOST_STATUS, STDIN, STDOUT, relay
from .screen import complain, visible
from .terminal import size
from .words import pairs, seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mas_sandbox.sdk import Sandbox
    from mas_sandbox.sdk.asked.processes import CommandOptions

SHELL = ("sh", "-c", "command -v bash >/dev/null && exec bash; exec sh")

Env = Annotated[
    tuple[str, ...],
    Parameter(name=["--env", "-e"], help="NAME=VALUE; may be repeated."),
]
Workdir = Annotated[
    str | None,
    Parameter(name=["--workdir", "-w"], help="Where it runs: absolute, or beneath /workspace."),
]


def execute(
    sandbox: SandboxId,
    /,
    *command: Annotated[str, Parameter(help="The program and its arguments, after --.")],
    interactive: Annotated[
        bool, Parameter(name=["--interactive", "-i"], help="It reads our stdin.")
    ] = False,
    terminal: Annotated[
        bool, Parameter(name=["--tty", "-t"], help="It has a terminal, which is ours.")
    ] = False,
    env: Env = (),
    workdir: Workdir = None,
    tag: Annotated[str | None, Parameter(help="A name to find it by.")] = None,
    timeout: Annotated[
        str | None, Parameter(help="How long it may run: seconds, or such as 15m, 2h.")
    ] = None,
    detach: Annotated[
        bool,
        Parameter(
            name=["--detach", "-d"],
            help="Print its pid and leave it; `logs` shows what it writes.",
        ),
    ] = False,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """Run a program in a sandbox, as if it ran here.

    The exit status is the program's own, 128+N where signal N ended it; 127 where
    there is no such program, 126 where it is none, 255 where it was lost or could
    not be started. Unless it is detached, it ends when this command does.
    """
    from mas_sandbox.sdk import Sandbox

    with OwnStatus() as status:
        if not command:
            raise InvalidRequest("say what to run: mas-sandbox exec SANDBOX -- PROGRAM ARGUMENT...")
        if detach and interactive:
            raise InvalidRequest("a detached program reads nothing from here; leave out -i")
        if terminal and interactive:
            _require_terminal()
        options: CommandOptions = {
            "cwd": _directory(workdir),
            "env": _variables(env, terminal=terminal),
            "timeout": seconds(timeout) if timeout else None,
        }
        with Sandbox.connect(sandbox, url, token) as place:
            status.found = True
            if detach:
                pty = size(STDIN, STDOUT) if terminal else None
                process = place.processes.start(command, pty=pty, tag=tag, **options)
                print(process.pid)  # noqa: T201 - for scripts
                status.value = 0
            elif terminal:
                status.value = _in_terminal(place, command, interactive, tag, options)
            else:
                status.value = _piped(place, command, interactive, tag, options)
    return status.value


def shell(
    sandbox: Annotated[
        str | None, Parameter(help="Its id; a fresh one if left out.", completer=sandbox_ids)
    ] = None,
    /,
    *,
    workdir: Workdir = None,
    asked: Annotated[Asked, Parameter(name="*")] = Asked(),  # noqa: B008 - frozen
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """An interactive shell in a sandbox, or in a fresh one that ends with it.

    The options describe the fresh one; --env is for the shell in either case.
    """
    from mas_sandbox.sdk import Sandbox

    with OwnStatus() as status, ExitStack() as undo:
        _require_terminal()
        options: CommandOptions = {"cwd": _directory(workdir)}
        if sandbox is None:
            place = undo.enter_context(Sandbox.create(url, token, **asked.options()))
            _say(f"{place.id} ({place.info.runtime}) ends when you leave this shell")
            options["env"] = _variables((), terminal=True)
        else:
            if asked != Asked(env=asked.env):
                raise InvalidRequest(
                    f"{sandbox} is as it was made; only --env and --workdir go with it"
                )
            place = undo.enter_context(Sandbox.connect(sandbox, url, token))
            options["env"] = _variables(asked.env, terminal=True)
        status.found = True
        status.value = _in_terminal(place, SHELL, True, None, options)
    return status.value


def _in_terminal(
    place: Sandbox,
    command: Sequence[str],
    interactive: bool,
    tag: str | None,
    options: CommandOptions,
) -> int:
    pty = size(STDIN, STDOUT)
    with place.processes.open(command, pty=pty, tag=tag, **options) as attachment:
        next(attachment)  # that it has started, or why not
        return relay(lambda: attachment, attachment, interactive=interactive, terminal=True)


def _piped(
    place: Sandbox,
    command: Sequence[str],
    interactive: bool,
    tag: str | None,
    options: CommandOptions,
) -> int:
    # Over HTTP: whoever reads slowly, such as a pager, loses no WebSocket by it.
    with place.processes.stream(command, stdin=interactive, tag=tag, **options) as events:
        pid = next(event.pid for event in events if isinstance(event, Started))
        process = cache(lambda: place.processes.get(pid))
        return relay(process, events, interactive=interactive, terminal=False)


def _directory(workdir: str | None) -> str | None:
    return None if workdir is None else posixpath.join(WORKSPACE, workdir)


def _variables(words: tuple[str, ...], *, terminal: bool) -> dict[str, str]:
    """Those that are given, and what a program must know of the terminal that it gets."""
    given = pairs(words, "--env")
    return {"TERM": os.environ["TERM"]} | given if terminal and "TERM" in os.environ else given


class OwnStatus:
    """The exit status where a program was not started: its sandbox was found, and it is not
    there (127) or no program (126), as shells have it; 255 for all else that went wrong."""

    def __init__(self) -> None:
        self.value = LOST_STATUS
        self.found = False

    def __enter__(self) -> OwnStatus:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> bool:
        match error:
            case NotFound() if self.found:
                self.value = 127
            case ToolFailed() if self.found:
                self.value = 126
            case SandboxError():
                pass
            case _:
                return False
        complain(str(error))
        return True


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise InvalidRequest("stdin is no terminal: run this in one, or `exec` without -t")


def _say(message: str) -> None:
    print(visible(message), file=sys.stderr)  # noqa: T201
