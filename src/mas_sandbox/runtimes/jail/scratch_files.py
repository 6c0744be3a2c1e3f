"""How many files a jail's scratch space may hold, set from outside before its first call.

bubblewrap gives a tmpfs a size and no number of inodes. So a short-lived process enters
the user namespace that owns the jail's mounts, then the mounts, and reconfigures them
(setns(2), ioctl_ns(2), fspick(2), tmpfs(5)). That takes no right but the one that this
daemon has over the namespaces it made, root or not. It is a process of its own because
one with threads may not enter a user namespace.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NS_GET_USERNS = 0xB701
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_FSCONFIG, _FSPICK = 431, 433  # the same on every architecture but alpha
_SET_STRING, _RECONFIGURE = 1, 7  # enum fsconfig_command
_AT_FDCWD = -100
TIMEOUT_S = 10.0


async def limit_files(first_process: int, files: int, points: Sequence[str]) -> None:
    """Let each of a jail's mount points hold so many files and directories.

    `first_process`: the host's id of the jail's first process. Raises OSError.
    """
    import asyncio
    import fcntl
    from contextlib import ExitStack

    from ..process import ChildProcess

    with ExitStack() as undo:
        mounts = os.open(f"/proc/{first_process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        undo.callback(os.close, mounts)
        owner = fcntl.ioctl(mounts, _NS_GET_USERNS)
        undo.callback(os.close, owner)
        process = ChildProcess(
            [
                *(sys.executable, "-I", "-S", __file__),
                *(str(owner), str(mounts), str(files), *points),
            ],
            pass_fds=(owner, mounts),
            environment={},
        )
        undo.callback(process.close)
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status = await asyncio.shield(process.ended)
        except BaseException:
            process.kill()
            await asyncio.shield(process.ended)
            raise
        if status != 0:
            raise OSError(f"disk_files could not be set: {process.stderr()}")


def main(owner: int, mounts: int, files: int, points: Sequence[str]) -> None:
    """What the process does. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: int | bytes | None) -> int:
        result: int = getattr(libc, name)(*arguments)
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    call("setns", owner, _CLONE_NEWUSER)
    call("setns", mounts, _CLONE_NEWNS)
    for point in points:
        now = os.statvfs(point)
        limit = now.f_files - now.f_ffree + files
        picked = call("syscall", _FSPICK, _AT_FDCWD, os.fsencode(point), 0)
        number = str(limit).encode()
        call("syscall", _FSCONFIG, picked, _SET_STRING, b"nr_inodes", number, 0)
        call("syscall", _FSCONFIG, picked, _RECONFIGURE, None, None, 0)
        os.close(picked)


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    except OSError as error:
        raise SystemExit(str(error)) from error
