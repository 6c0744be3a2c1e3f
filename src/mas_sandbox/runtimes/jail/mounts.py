"""The host directories of one jail: how bubblewrap is handed what was opened."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..base import Mount
from ..identity import FIRST
from ..shares.binds import Binds, owner_namespace
from ..shares.kernel import clone_mount
from ..shares.opening import open_directories
from .layout import Bind

IDMAPPED = "idmapped bind mounts of opened directories"
PLAIN = "bind mounts of opened directories, as the same user"
MEND = (
    "as root: Linux 5.12 and CAP_SYS_ADMIN; otherwise a bubblewrap with --bind-fd (0.10, or "
    "0.8.0-2+deb12u1 of Debian 12)"
)


@dataclass(frozen=True, slots=True)
class JailMounts:
    """`enter`: what bubblewrap's process does before it is no longer root, see `ChildProcess`."""

    binds: Sequence[Bind] = ()
    enter: Callable[[], None] | None = None

    @property
    def writable(self) -> bool:
        return any(bind.writable for bind in self.binds)


def open_mounts(
    mounts: Sequence[Mount],
    mechanism: str,
    user: int | None,
    directory: Path,
    protected: Iterable[Path],
    undo: ExitStack,
    server: int | None = None,
) -> JailMounts:
    """`mechanism`: what the probe found; `user`: the jail's outside, None to stay;
    `server`: as `Binds` has it;
    `directory`: ours, covered in the jail's launcher alone; `undo` closes what bubblewrap
    has inherited. Raises SandboxError; OSError."""
    if not mounts:
        return JailMounts()
    if not mechanism:
        raise SandboxError(
            ErrorCode.POLICY_UNENFORCEABLE,
            f"the jail cannot have host directories here; to mend it: {MEND}",
        )
    opened = open_directories(mounts, protected, undo)
    if user is None:
        plain = [Bind(each.descriptor, each.mount.path, each.mount.writable) for each in opened]
        return JailMounts(plain)
    bound = Binds(opened, user, str(directory), undo, server)
    binds = [
        Bind(source, each.mount.path, each.mount.writable)
        for source, each in zip(bound.sources, opened, strict=True)
    ]
    return JailMounts(binds, bound.enter)


def find_mechanism(bwrap_help: str) -> str:
    """How host directories get into a jail on this host, found by trying; empty: they do not."""
    if os.geteuid() != 0:
        return PLAIN if "--bind-fd" in bwrap_help else ""
    try:
        directory = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(clone_mount(directory))
        finally:
            os.close(directory)
        os.close(owner_namespace(0, 0, FIRST))
    except OSError:
        return ""
    return IDMAPPED
