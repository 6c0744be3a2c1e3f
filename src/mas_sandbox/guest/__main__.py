"""mas-toolrunner: runs tool calls that arrive over a channel, inside whatever wall it is in.

usage: mas-toolrunner -fd N -workspace DIR [-tmp DIR] [-landlock] [-own-kernel]

  -fd N           the channel: an inherited stream socket
  -workspace DIR  the directory that callers know as /workspace
  -tmp DIR        what calls find in $TMPDIR (default /tmp)
  -landlock       restrict each call to its paths with Landlock, where the kernel has it
  -own-kernel     this kernel is the sandbox's own: set its clock and host name

Flags take one dash or two. The daemon starts this program; by hand it is of no use:

  python3 -I -S toolrunner.pyz -fd 3 -workspace /workspace 3<>channel
"""

from __future__ import annotations

import os
import sys

from mas_sandbox.wire.frames import ProtocolError

from . import landlock, libc
from .connection import Connection
from .loop import Loop, Settings

_EX_USAGE, _EX_PROTOCOL = 64, 70


class _UsageError(Exception):
    pass


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 when the channel ended, 64 for usage, 70 for a broken protocol."""
    try:
        flags = _parse(sys.argv[1:] if arguments is None else arguments)
        if "help" in flags:
            print(__doc__.strip())  # noqa: T201
            return 0
        connection = _connect(flags)
        settings = _settings(flags)
    except _UsageError as error:
        return _fail(_EX_USAGE, f"{error}; see -help")
    _protect()
    try:
        Loop(connection, settings).run()
    except ProtocolError as error:
        return _fail(_EX_PROTOCOL, f"the host broke the protocol: {error}")
    return 0


def _parse(arguments: list[str]) -> dict[str, str]:
    """argparse alone takes as long to import as all of the toolrunner."""
    flags = {}
    pending = arguments[::-1]
    while pending:
        argument = pending.pop()
        name, equals, value = argument.removeprefix("-").removeprefix("-").partition("=")
        if not argument.startswith("-"):
            raise _UsageError(f"unexpected argument {argument!r}")
        if name in ("help", "h", "landlock", "own-kernel") and not equals:
            flags["help" if name == "h" else name] = ""
        elif name in ("fd", "workspace", "tmp") and (equals or pending):
            flags[name] = value if equals else pending.pop()
        else:
            raise _UsageError(f"unknown or incomplete flag {argument!r}")
    return flags


def _connect(flags: dict[str, str]) -> Connection:
    try:
        return Connection(int(flags["fd"]))
    except KeyError:
        raise _UsageError("-fd is missing") from None
    except (ValueError, OSError) as error:
        raise _UsageError(f"-fd {flags['fd']}: {error}") from error


def _settings(flags: dict[str, str]) -> Settings:
    workspace = flags.get("workspace", "")
    if not os.path.isdir(workspace):
        raise _UsageError(f"-workspace {workspace!r} is not a directory")
    return Settings(
        os.path.realpath(workspace),
        temporary=flags.get("tmp", "/tmp"),  # noqa: S108
        landlock=landlock.abi() if "landlock" in flags else 0,
        own_kernel="own-kernel" in flags,
    )


def _protect() -> None:
    """Keep the channel from the workload, and the workload's orphans for the toolrunner."""
    while os.open(os.devnull, os.O_RDWR) <= 2:
        pass  # 0, 1 and 2 must be taken, or a pipe would get one of their numbers
    libc.prctl(libc.PR_SET_DUMPABLE, 0)
    libc.prctl(libc.PR_SET_CHILD_SUBREAPER, 1)


def _fail(status: int, message: str) -> int:
    print(f"mas-toolrunner: {message}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    raise SystemExit(main())
