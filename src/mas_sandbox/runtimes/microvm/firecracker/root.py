"""The directory that one Firecracker lives in, and the command that starts it there.

Started by root, Firecracker goes through its jailer: a chroot, a uid of its own and
nothing else in sight (docs/jailer.md). Started by anyone else it runs as that user, with
the directory as its working directory. Files have the same names in both.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ...identity import FIRST
from ..vm import Place, VmSpec
from . import requests

SHARED_GROUP = FIRST - 1
"""The gid of every jailed monitor: a template's memory is readable to it, and to no account."""
MAX_FILES = 1024
_SPARE_BYTES = 64 << 20


class Root:
    """Where a monitor's files are. `user`: its uid, None where it is not jailed."""

    def __init__(self, place: Place, program: Path) -> None:
        self.user = place.user
        self._id = place.id
        self._base = place.directory
        self._program = program
        self.path = place.directory
        if self.user is not None:
            # The layout is the jailer's: <base>/<name of the program>/<id>/root.
            self.path = place.directory / program.name / place.id / "root"

    def make(self) -> None:
        """Raises OSError."""
        self._base.mkdir(mode=0o700)
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.user is not None:
            os.chown(self.path, self.user, SHARED_GROUP)

    def command(self, jailer: Path | None, largest_file: int) -> list[str]:
        """`largest_file`: bytes, the bound on any file that a jailed monitor writes."""
        own = ["--api-sock", requests.API_SOCKET]
        if self.user is None:
            return [str(self._program), "--id", self._id, *own]
        assert jailer is not None
        return [
            # A PID namespace of its own. The jailer's --new-pid-ns would leave a process
            # whose end nobody could wait for; this one's parent is ours, and takes it along.
            *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", "--"),
            *(str(jailer), "--id", self._id, "--exec-file", str(self._program)),
            *("--uid", str(self.user), "--gid", str(SHARED_GROUP)),
            *("--chroot-base-dir", str(self._base)),
            *("--resource-limit", f"no-file={MAX_FILES}"),
            *("--resource-limit", f"fsize={largest_file}"),
            *("--", *own),
        ]

    def add(self, name: str, source: Path, writable: bool = False) -> None:
        """Make `source` appear as `name`. Raises SandboxError naming the file."""
        target, source = self.path / name, source.resolve()
        try:
            if self.user is None:
                target.symlink_to(source)
            elif writable:
                os.link(source, target)
                os.chown(target, self.user, SHARED_GROUP)
            elif not self._link(source, target):
                shutil.copyfile(source, target)
                os.chown(target, self.user, SHARED_GROUP)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"{source} cannot be handed to Firecracker as {name}: {error.strerror}; keep it "
                f"on the file system of {self._base.parent}, readable to this user",
            ) from error

    def pipe(self, name: str) -> int:
        """Make a FIFO that the monitor writes to; our reading end."""
        path = self.path / name
        os.mkfifo(path, 0o600)
        if self.user is not None:
            os.chown(path, self.user, SHARED_GROUP)
        # Opened for writing as well, so that it never reads as ended while nobody writes.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

    def remove(self) -> None:
        shutil.rmtree(self._base, ignore_errors=True)

    def _link(self, source: Path, target: Path) -> bool:
        """Share the file's own bytes, where the jailed user may read them as they are."""
        status = source.stat()
        group = status.st_gid == SHARED_GROUP and status.st_mode & 0o040
        if not (status.st_mode & 0o004 or group):
            return False
        with suppress(OSError):
            os.link(source, target)
            return True
        return False


def add_spec(root: Root, spec: VmSpec, booted: bool) -> None:
    """Hand over the files that a machine of this spec opens; raises SandboxError."""
    if booted:
        root.add(requests.KERNEL, spec.kernel)
        if spec.initrd is not None:
            root.add(requests.INITRD, spec.initrd)
    root.add(requests.ROOTFS, spec.rootfs)
    for drive in spec.drives:
        root.add(requests.drive_name(drive.id), drive.path, writable=not drive.read_only)


def largest_file(spec: VmSpec) -> int:
    """Bytes of the largest file that a monitor of this spec may write: a snapshot's memory,
    or a disk of its own."""
    sizes = [drive.path.stat().st_size for drive in spec.drives if not drive.read_only]
    return max([spec.mem_mib << 20, *sizes]) + _SPARE_BYTES


class Published:
    """A path that the operator chose for a socket, as a link to where it really is.

    The socket itself is in the monitor's root, where a jailed monitor can make it and
    where a clone finds it by the same name as its template.
    """

    def __init__(self, path: Path, target: Path, field: str) -> None:
        """Raises SandboxError when another machine's is there."""
        self._path, self._target = path, target
        if path.is_symlink() and not path.exists():
            path.unlink()  # what a dead machine left
        try:
            path.symlink_to(target)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"{field}: {path}: {error.strerror}; if each machine is to have one, put {{id}} in",
            ) from error

    def remove(self) -> None:
        with suppress(OSError):
            if self._path.readlink() == self._target:
                self._path.unlink()
