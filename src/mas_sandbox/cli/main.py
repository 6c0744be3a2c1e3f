"""`mas-sandbox`: the command a person types."""

from __future__ import annotations

import os
import sys

from mas_sandbox import __version__
from mas_sandbox.wire.errors import SandboxError

from .screen import complain

INTERRUPTED_STATUS = 130
PIPE_STATUS = 141

HELP = "Run tools behind walls, see what this host can enforce, read what happened."

EXAMPLES = {
    "": """\
  mas-sandbox doctor
  mas-sandbox run calculator --arg expression='15 * 8 + 7'
  mas-sandbox run bash --arg command='id; ls /' --runtime jail
  mas-sandbox serve -listen :8080
  mas-sandbox run bash --arg command=env --url http://127.0.0.1:8080
  mas-sandbox audit tail -n 20""",
    "run": """\
  mas-sandbox run calculator --arg expression='15 * 8 + 7'
  mas-sandbox run bash -a command='echo hello; exit 3'
  mas-sandbox run read_file -a path=notes.txt -a start_line:=10
  mas-sandbox run bash -a command='sleep 9' --policy '{"timeout_ms": 500}'""",
    "tools": """\
  mas-sandbox tools
  mas-sandbox tools --url http://127.0.0.1:8080 --json""",
    "doctor": """\
  mas-sandbox doctor
  mas-sandbox doctor --json""",
}

COMMANDS = {
    "run": "Run one tool and print its result.",
    "tools": "List the tools there are.",
    "doctor": "Show what this host can enforce, and the commands that mend what it cannot.",
}

_HERE = "mas_sandbox.cli"


def main(arguments: list[str] | None = None) -> int:
    """The exit status: the tool's own for `run`, 1 for errors, 2 for wrong usage."""
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
    from cyclopts import App

    app = App(
        name="mas-sandbox",
        help=HELP,
        help_format="plaintext",
        help_epilogue=f"Examples:\n{EXAMPLES['']}",
        version=__version__,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )
    # By path: only the module of the command that runs is imported.
    for name, summary in COMMANDS.items():
        app.command(
            f"{_HERE}.{name}:{name}",
            name=name,
            help=summary,
            help_epilogue=f"Examples:\n{EXAMPLES[name]}",
        )
    app.command(f"{_HERE}.audit:audit", name="audit", help="Read and verify the audit log.")
    app.command(
        f"{_HERE}.image:image", name="image", help="Build and list images of virtual machines."
    )
    app.command(f"{_HERE}.serve:serve", name="serve", help="Start the daemon.")
    app.register_install_completion_command()
    status = app(arguments)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    sys.exit(main())
