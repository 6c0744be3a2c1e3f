"""`mas-sandbox serve`: become the daemon."""

from __future__ import annotations

import os
from typing import NoReturn

from mas_sandbox.sdk.daemon_command import daemon_command
from mas_sandbox.sdk.errors import DaemonUnavailable

_SPEAKS_FOR_ITSELF = {"listen", "help", "h", "version", "probe"}


def serve(*flags: str) -> NoReturn:
    """Start the daemon in this terminal, with mas-sandboxd's own flags.

    Without -listen it listens on :8080, which is this machine only unless there is a
    token. `mas-sandbox serve -help` lists the flags.
    """
    become_daemon(list(flags))


def become_daemon(flags: list[str]) -> NoReturn:
    """Replace this process, so that signals reach the daemon and nothing stands between."""
    command = [*daemon_command(), *with_address(flags)]
    try:
        os.execvp(command[0], command)  # noqa: S606 - an argv, no shell
    except OSError as exc:
        raise DaemonUnavailable(
            f"cannot start {command[0]} ({exc.strerror}); set MAS_SANDBOXD to mas-sandboxd"
        ) from exc


def with_address(flags: list[str]) -> list[str]:
    """The flags, with an address to listen on where none of them says what to do.

    >>> with_address(["-runtime", "jail"])
    ['-listen', ':8080', '-runtime', 'jail']
    """
    names = {flag.lstrip("-").partition("=")[0] for flag in flags if flag.startswith("-")}
    return flags if names & _SPEAKS_FOR_ITSELF else ["-listen", ":8080", *flags]
