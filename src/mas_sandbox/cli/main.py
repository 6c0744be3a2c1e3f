"""`mas-sandbox`: the command a person types."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from mas_sandbox import __version__
from mas_sandbox.wire.errors import SandboxError

from .commands import COMMANDS, OVERVIEW, Command
from .screen import complain

if TYPE_CHECKING:
    from cyclopts import App

INTERRUPTED_STATUS = 130
PIPE_STATUS = 141

HELP = "Run tools behind walls, live in sandboxes, see what this host enforces, read what happened."

_HERE = "mas_sandbox.cli"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: the program's own for `run` and `exec`, 1 for errors, 2 for wrong usage."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given[:1] == ["serve"]:
            # Before the rest is imported: the daemon takes this process over.
            from .serve import become_daemon

            become_daemon(given[1:])
        return _dispatch(given)
    except SandboxError as error:
        complain(str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # Whoever read us has seen enough; keep the interpreter from flushing into it again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_STATUS


def _dispatch(arguments: list[str]) -> int:
    app = application(next(iter(arguments), ""))
    if arguments[:1] == ["exec"]:
        arguments = ["exec", *with_end_of_options(app["exec"], arguments[1:])]
    status = app(arguments)
    return status if isinstance(status, int) else 0


def application(chosen: str = "") -> App:
    """All commands. Only the module of the one that is `chosen` is imported."""
    from cyclopts import App, Group, Parameter

    from .completion import script

    app = App(
        name="mas-sandbox",
        help=HELP,
        help_format="plaintext",
        help_epilogue=f"Examples:\n{OVERVIEW}",
        version=__version__,
        default_parameter=Parameter(negative=(), show_default=False),
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    for heading, commands in COMMANDS.items():
        group = Group.create_ordered(heading)
        for name, command in commands.items():
            app.command(
                f"{_HERE}.{command.where}",
                name=name,
                group=group,
                **_help(command, whole=name == chosen),
            )
    app.command(script(app))
    app.register_install_completion_command()
    return app


def _help(command: Command, *, whole: bool) -> dict[str, str]:
    """A line for the list; of the one that is asked about, all that it says of itself."""
    about = {} if whole else {"help": command.summary}
    if command.examples:
        about["help_epilogue"] = f"Examples:\n{command.examples}"
    return about


def with_end_of_options(command: App, words: list[str]) -> list[str]:
    """The words of `exec`, with -- behind the sandbox where it was left out: what follows are
    the program's options, not ours."""
    valued = {
        name
        for argument in command.assemble_argument_collection()
        for name in argument.names
        if name.startswith("-") and argument.token_count()[0]
    }
    at = 0
    while at < len(words) and words[at] != "--":
        word = words[at]
        if not word.startswith("-") or word == "-":
            rest = words[at + 1 :]
            return words if rest[:1] == ["--"] else [*words[: at + 1], "--", *rest]
        at += 2 if word in valued else 1
    return words


if __name__ == "__main__":
    sys.exit(main())
