"""mas-toolrunner: runs tool calls that arrive over a channel, inside whatever wall it is in.

usage: mas-toolrunner CHANNEL -workspace DIR [-tmp DIR] [-landlock] [-own-kernel]
                             [-proxy PORT]

CHANNEL is one of
  -fd N           an inherited stream socket
  -serial PATH    a virtio-serial port
  -port N         a vsock port to listen on; one connection at a time, from the host only
  -listen-fd N    the same with an inherited listening socket, of any kind

  -workspace DIR  the directory that callers know as /workspace
  -tmp DIR        what calls find in $TMPDIR (default /tmp)
  -landlock       restrict each call to its paths with Landlock, where the kernel has it
  -own-kernel     this machine is the sandbox's own: set its clock, names and limits, and
                  run calls as uid 1000; implies -landlock
  -proxy PORT     listen on this port of 127.0.0.1 (0: any), pass what connects on to the
                  host's service `egress`, and name the port in every call's proxy variables

or, to fork into a jail for each request that comes over an inherited socket,

  mas-toolrunner -zygote N [-own-users]

  -own-users      it has a user namespace of its own already; who is not root needs one

Flags take one dash or two. The daemon starts this program; by hand it is of no use:

  python3 -I -S toolrunner.pyz -fd 3 -workspace /workspace 3<>channel
"""

from __future__ import annotations

import os
import sys

from mas_sandbox.wire.frames import ProtocolError

from . import landlock, libc
from .connection import Connection, SerialConnection
from .loop import Loop, Settings
from .refusal import Unenforceable
from .signals import Signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

    from .listener import Listener
    from .machine import Machine

_EX_USAGE, _EX_PROTOCOL, _EX_OSERR = 64, 70, 71
_BACKLOG = 128
_CHANNELS = ("fd", "serial", "port", "listen-fd")


class _UsageError(Exception):
    pass


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0 when the channel ended, 64 for usage, 70 for a broken protocol,
    71 for limits that this machine cannot hold."""
    try:
        flags = _parse(sys.argv[1:] if arguments is None else arguments)
        if "help" in flags:
            print(__doc__.strip())  # noqa: T201
            return 0
        if "zygote" in flags:
            return _serve_jails(flags["zygote"], own_users="own-users" in flags)
        channel = _open_channel(flags)
        settings = _settings(flags)
    except _UsageError as error:
        return _fail(_EX_USAGE, f"{error}; see -help")
    _protect()
    if isinstance(channel, Connection):
        loop = Loop(channel, settings, Signals())
        return _serve(loop)
    return _serve_callers(channel, settings)


def _serve_callers(listener: Listener, settings: Settings) -> int:
    """One host after the other, until one says goodbye. A host that breaks the protocol
    loses its connection and its calls, not the machine."""
    signals = Signals()
    status = 0
    while (connection := listener.wait(signals)) is not None:
        loop = Loop(connection, settings, signals, listener)
        status = _serve(loop)
        connection.close()
        if loop.told_to_end or status == _EX_OSERR:
            return status
    return 0


def _serve_jails(control: str, *, own_users: bool) -> int:
    from .zygote.serve import serve

    try:
        return serve(int(control), main, own_users=own_users)
    except (ValueError, OSError) as error:
        raise _UsageError(f"-zygote {control}: {error}") from error


def _serve(loop: Loop) -> int:
    try:
        loop.run()
    except ProtocolError as error:
        return _fail(_EX_PROTOCOL, f"the host broke the protocol: {error}")
    except Unenforceable as error:
        return _fail(_EX_OSERR, str(error))
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
        if name in ("help", "h", "landlock", "own-kernel", "own-users") and not equals:
            flags["help" if name == "h" else name] = ""
        elif name in (*_CHANNELS, "workspace", "tmp", "proxy", "zygote") and (equals or pending):
            flags[name] = value if equals else pending.pop()
        else:
            raise _UsageError(f"unknown or incomplete flag {argument!r}")
    return flags


def _open_channel(flags: dict[str, str]) -> Connection | Listener:
    named = [name for name in _CHANNELS if name in flags]
    if len(named) != 1:
        raise _UsageError(f"give one of -{', -'.join(_CHANNELS)}, not {len(named)}")
    name, value = named[0], flags[named[0]]
    try:
        if name == "fd":
            return Connection(int(value))
        if name == "serial":
            return SerialConnection(value)
        from .listener import Listener

        number = int(value)
        return Listener.on_port(number) if name == "port" else Listener.inherited(number)
    except AttributeError as error:
        raise _UsageError("-port needs AF_VSOCK, which this system lacks; use -serial") from error
    except (ValueError, OverflowError, OSError) as error:
        raise _UsageError(f"-{name} {value}: {error}") from error


def _settings(flags: dict[str, str]) -> Settings:
    workspace = flags.get("workspace", "")
    if not os.path.isdir(workspace):
        raise _UsageError(f"-workspace {workspace!r} is not a directory")
    workspace = os.path.realpath(workspace)
    temporary = flags.get("tmp", "/tmp")  # noqa: S108
    own_kernel = "own-kernel" in flags
    return Settings(
        workspace,
        temporary=temporary,
        landlock=landlock.abi() if own_kernel or "landlock" in flags else 0,
        machine=_machine(workspace, temporary) if own_kernel else None,
        proxy=_listen(flags["proxy"], own_kernel) if "proxy" in flags else None,
    )


def _machine(workspace: str, temporary: str) -> Machine:
    from .machine import Machine

    try:
        return Machine(workspace, temporary)
    except OSError as error:
        raise _UsageError(f"-own-kernel: this is no machine of its own: {error}") from error


def _listen(port: str, own_kernel: bool) -> _socket.socket:
    import _socket

    if own_kernel:
        from . import relays  # noqa: F401  # the template pays for it, and no clone
    listening = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
    try:
        listening.bind(("127.0.0.1", int(port)))
        listening.listen(_BACKLOG)
    except (ValueError, OverflowError, OSError) as error:
        raise _UsageError(f"-proxy {port}: {error}") from error
    listening.setblocking(False)
    return listening


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
