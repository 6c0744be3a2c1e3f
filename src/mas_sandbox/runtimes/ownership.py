"""Which daemon made a thing: a random token, held by a lock while its daemon lives.

Whatever outlives a `kill -9` of the daemon (a cgroup, a workspace) carries the
token in its name. A token whose lock can be taken belongs to a dead daemon, and
what carries it may be removed. Process ids are never used for this: they recur. A
token begins with a mark of the directory its lock is in, so that a daemon which looks
elsewhere (another container, another XDG_RUNTIME_DIR) never judges it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PREFIX = "mas-sandbox-"
EMULATED = "emulated"
"""A file in the lock directory: this host's hardware was seen not to boot a machine."""
_TOKEN = re.compile(r"[0-9a-f]{24}")
_BIRTH_S = 60.0


def lock_directory() -> Path:
    """Where locks, and what was found out since the last reboot, are kept."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if os.geteuid() == 0:
        return Path("/run/mas-sandbox")
    if runtime:
        return Path(runtime) / "mas-sandbox"
    return Path(tempfile.gettempdir()) / f"mas-sandbox-{os.geteuid()}"


class Locks:
    """Judges by the locks in one directory which tokens belong to the dead."""

    token = ""
    """The judge's own, where it has one."""

    def __init__(self, directory: Path | None = None) -> None:
        """Raises OSError when the directory cannot be made or is not ours alone."""
        self.directory = directory or lock_directory()
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(self.directory)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(f"{self.directory} must belong to this user, mode 0700")
        place = f"{status.st_dev}:{status.st_ino}".encode()
        self._mark = hashlib.sha256(place).hexdigest()[:8]

    def abandoned(self, name: str) -> bool:
        """Whether `name` carries the token of a daemon that is dead."""
        if not name.startswith(PREFIX):
            return False
        token = name.removeprefix(PREFIX).split("-", 1)[0]
        if not _TOKEN.fullmatch(token) or not token.startswith(self._mark) or token == self.token:
            return False
        try:
            lock = os.open(self.directory / f"{token}.lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def left_in(self, directory: Path) -> list[Path]:
        """What dead daemons have left in a directory."""
        return [path for path in directory.glob(PREFIX + "*") if self.abandoned(path.name)]

    def dead(self) -> list[Path]:
        """The locks of dead daemons."""
        locks = sorted(self.directory.glob("*.lock"))
        return [path for path in locks if self.abandoned(f"{PREFIX}{path.stem}-")]


class Ownership(Locks):
    """This process's token. Made once; the lock goes with the process."""

    def __init__(self, directory: Path | None = None) -> None:
        """Raises OSError as `Locks` does."""
        super().__init__(directory)
        self.token = self._mark + secrets.token_hex(8)
        self._path = self.directory / f"{self.token}.lock"
        new = self.directory / f".{self.token}"
        self._lock = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self._path)  # whoever sees it sees it locked
        self._forget_dead()

    def name(self, suffix: str) -> str:
        """A name that carries the token."""
        return f"{PREFIX}{self.token}-{suffix}"

    def _forget_dead(self) -> None:
        """Remove the locks of dead daemons; a token without a lock is as dead as before."""
        for path in (*self.dead(), *self._unborn()):
            path.unlink(missing_ok=True)

    def _unborn(self) -> list[Path]:
        """Locks of daemons that died before they had them; a living one takes no second."""
        recent = time.time() - _BIRTH_S
        places = [each for each in self.directory.glob(".*") if _TOKEN.fullmatch(each.name[1:])]
        return [place for place in places if _modified(place) < recent]

    def close(self) -> None:
        """Give the token up; nothing that carries it may be left."""
        with suppress(FileNotFoundError):
            self._path.unlink()
        os.close(self._lock)


def _modified(path: Path) -> float:
    """When it was; for what is gone, now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
