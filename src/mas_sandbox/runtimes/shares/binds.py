"""Host directories as bind mounts that only one sandbox's own mount namespace holds.

Where the daemon is root, a sandbox runs under a uid that owns nothing. Each mount is
idmapped (mount_setattr(2), Linux 5.12): the directory's owner outside is the sandbox's
user inside, and nobody else is; so what it makes belongs to that owner. Read-only, no
setuid and no devices are properties of the mount, held by the host's kernel.

Where the daemon is not root, sandbox and daemon are the same user to the kernel, and the
opened directories are given as they are.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from . import kernel
from .opening import OpenedDirectory

_MADE = b"1"


class Binds:
    """The mounts of one sandbox that is about to start as `user`.

    `directory`: an existing one that the sandbox's launcher needs nothing of, covered in
    its mount namespace alone. `undo` closes what is not needed once it has started.
    """

    def __init__(
        self,
        opened: Sequence[OpenedDirectory],
        user: int,
        directory: str,
        undo: ExitStack,
        server: int | None = None,
    ) -> None:
        """`server`: another user, who serves the files to `user` and must be able to make
        them, to give them away at once.

        Raises SandboxError: `policy_unenforceable` for a directory to be written whose
        file system cannot map owners; OSError."""
        self._directory = directory
        self._mounts = [_mount(each, user, server, undo) for each in opened]
        self.sources = [f"{directory}/{position}" for position in range(len(opened))]
        """Where they are for whoever came through `enter`, in the order they were given."""

    def enter(self) -> None:
        """Give the calling process a mount namespace that holds them. For a child, as root."""
        kernel.own_mount_namespace()
        kernel.mount_small_tmpfs(self._directory)
        for mount, source in zip(self._mounts, self.sources, strict=True):
            os.mkdir(source)  # noqa: PTH102  # system calls alone, see ChildProcess
            kernel.attach_mount(mount, source)


def _mount(opened: OpenedDirectory, user: int, server: int | None, undo: ExitStack) -> int:
    mount = kernel.clone_mount(opened.descriptor)
    undo.callback(os.close, mount)
    writable = opened.mount.writable
    namespace = owner_namespace(opened.user, opened.group, user, server)
    try:
        kernel.restrict_mount(mount, writable=writable, idmap=namespace)
    except OSError as error:
        if writable:
            raise SandboxError(
                ErrorCode.POLICY_UNENFORCEABLE,
                f"paths: {opened.mount.host} cannot be written by a sandbox: its file system "
                f"does not map owners ({error.strerror}). Grant it ro, run the daemon as the "
                "directory's owner, or keep it on ext4, xfs, btrfs or tmpfs of Linux 6.3",
            ) from error
        kernel.restrict_mount(mount, writable=False, idmap=None)  # then as anybody reads it
    finally:
        os.close(namespace)
    return mount


def owner_namespace(owner: int, group: int, user: int, server: int | None = None) -> int:
    """A user namespace in which `owner` and `group` on disk are `user`, `server` is itself,
    and nobody else is anybody. Raises OSError."""
    kernel.warm()
    ours, theirs = socket.socketpair()
    with ours:
        process = os.fork()
        if process == 0:
            _hold_namespace(ours, theirs)
        theirs.close()
        try:
            if ours.recv(1) != _MADE:
                raise PermissionError("no user namespace can be made")
            for name, inside in (("uid_map", owner), ("gid_map", group)):
                itself = "" if server is None else f"{server} {server} 1\n"
                Path(f"/proc/{process}/{name}").write_text(f"{itself}{inside} {user} 1\n")
            return os.open(f"/proc/{process}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            ours.close()
            os.waitpid(process, 0)


def _hold_namespace(ours: socket.socket, theirs: socket.socket) -> NoReturn:
    """The forked child: keeps a namespace until its parent, or the parent's end, lets it go."""
    try:
        ours.close()
        kernel.own_user_namespace()
        theirs.send(_MADE)
        theirs.recv(1)
    finally:
        os._exit(0)
