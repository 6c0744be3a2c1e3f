"""`mas-sandbox completion`: what a shell needs to complete our words."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

EXAMPLES = """\
Examples:
  source <(mas-sandbox completion bash)
  mas-sandbox completion zsh > ~/.zfunc/_mas-sandbox
  mas-sandbox completion fish > ~/.config/fish/completions/mas-sandbox.fish"""


def script(app: App) -> App:
    """The command that prints the script for all commands of `app`."""
    command = App(
        name="completion",
        help="Print what your shell needs to complete our words.",
        help_format="plaintext",
        help_epilogue=EXAMPLES,
    )

    @command.default
    def completion(
        shell: Annotated[Literal["bash", "zsh", "fish"], Parameter(help="Yours.")], /
    ) -> int:
        """Print a script that completes commands, options, sandboxes and processes."""
        print(app.generate_completion(shell=shell))  # noqa: T201 - for the shell to read
        return 0

    return command
