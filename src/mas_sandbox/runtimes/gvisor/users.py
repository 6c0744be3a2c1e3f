"""The user namespace of a runsc that serves host directories.

It has two users: 0, who is runsc and its gofer, and 1000, who is the sandbox and to whom
the directories belong. Without host directories the first is enough, and bubblewrap makes
the namespace itself: gVisor has uids of its own inside.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from ..jail.layout import UID
from ..shares import kernel


def two_users(server: int, guest: int) -> int:
    """A user namespace in which `server` is 0 and `guest` is 1000, and whose owner is
    `server`, who may then enter it (user_namespaces(7)). As root. Raises OSError."""
    kernel.warm()
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        _hold(server, reader, writer)
    os.close(writer)
    try:
        if os.read(reader, 1) != b"1":
            raise PermissionError("no user namespace can be made")
        for name in ("uid_map", "gid_map"):
            lines = f"0 {server} 1\n{UID} {guest} 1\n"
            Path(f"/proc/{process}/{name}").write_text(lines)
        return os.open(f"/proc/{process}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(reader)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _hold(server: int, reader: int, writer: int) -> None:
    """The forked child: keeps the namespace until it is killed, or its parent is gone."""
    try:
        os.setgroups([])
        os.setresgid(server, server, server)
        os.setresuid(server, server, server)
        kernel.own_user_namespace()
        os.write(writer, b"1")
        signal.alarm(5)
        signal.pause()
    finally:
        os._exit(1)
