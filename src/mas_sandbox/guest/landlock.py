"""Landlock (landlock(7), kernel docs userspace-api/landlock): a call's own file walls.

A ruleset only ever adds rights to what it names, and a right on a directory covers
everything beneath it. So where a call is granted less than all of its workspace,
a rule on a directory *above* the workspace becomes one on each of its neighbours.
The rules are made in the call's own process, because they bind to the inodes of
now: a directory that another call replaced meanwhile must not keep its old rights.

Loopback servers are fair inside a sandbox: TCP is left alone. What Landlock does not
hold (up to ABI 7): stat, chmod, chown, utime, extended attributes.
"""

from __future__ import annotations

import os
import stat
import struct

from mas_sandbox.wire.errors import ErrorCode
from mas_sandbox.wire.isolation import WORKSPACE

from . import libc
from .directories import O_PATH, inside, open_beneath
from .refusal import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1  # LANDLOCK_CREATE_RULESET_VERSION
_PATH_BENEATH = 1  # LANDLOCK_RULE_PATH_BENEATH

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_SCOPES = 1 << 0 | 1 << 1  # abstract unix sockets, signals

_READ = _EXECUTE | _READ_FILE | _READ_DIR
_WRITE = (1 << 15) - 1 - _MAKE_CHAR - _MAKE_BLOCK
_DEVICE = _READ_FILE | _WRITE_FILE | _READ_DIR | _TRUNCATE | _IOCTL_DEV
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

_ELSEWHERE = (
    ("/", _READ),
    ("/tmp", _WRITE),  # noqa: S108  # the scratch space every program expects
    ("/dev/shm", _WRITE),  # noqa: S108
    *(
        (f"/dev/{name}", _DEVICE)
        for name in ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts")
    ),
)
"""What a call may touch outside its workspace and its grants."""


def abi() -> int:
    """The kernel's Landlock ABI version, 0 where there is none."""
    if not libc.LINUX:
        return 0
    try:
        return libc.syscall(_CREATE_RULESET, 0, 0, _VERSION)
    except OSError:
        return 0


def begin(version: int, workspace: str) -> int:
    """A ruleset, as a descriptor, that allows what is elsewhere and holds no workspace.

    Raises OSError where the kernel refuses.
    """
    handled = _handled(version)
    attributes = struct.pack("=QQQ", handled, 0, _SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, attributes[:size], size, 0)
    for path, rights in _ELSEWHERE:
        if not _contains(path, workspace):
            _allow_path(ruleset, path, rights & handled)
    return ruleset


def allow(
    ruleset: int,
    grants: list[tuple[str, str]],
    workspace: str,
    version: int,
    mounts: Iterable[str] = (),
) -> None:
    """Add `grants` to what `begin` made, and what lies beside the workspace and `mounts`.

    `grants`: as in `Call.paths`; one whose path does not exist grants nothing; `mounts`:
    where host directories are, none of which may be touched without a grant.
    Raises OSError where the kernel refuses, Refused for a grant through a symbolic link
    and for a read-only one where truncate(2) would pass it by (before ABI 3, Linux 6.2).
    """
    if version < 3 and any(mode == "ro" for _, mode in grants):
        raise Refused(
            ErrorCode.INVALID_REQUEST,
            "this kernel's Landlock cannot hold read-only paths (it is older than Linux 6.2);"
            " grant them rw or not at all",
        )
    handled = _handled(version)
    for path, rights in _ELSEWHERE:
        if not _contains(path, workspace):
            continue
        walled = [] if _granted_whole(WORKSPACE, grants) & rights == rights else [workspace]
        walled += [mount for mount in mounts if rights & ~_granted_whole(mount, grants)]
        for allowed in _beside(path, walled) if walled else [path]:
            _allow_path(ruleset, allowed, rights & handled)
    for path, mode in grants:
        _allow_grant(ruleset, path, _rights(mode) & handled, workspace)


def enforce(ruleset: int) -> None:
    """Restrict this process and its children. Needs no_new_privs. Raises OSError."""
    libc.syscall(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _handled(version: int) -> int:
    if version >= 5:
        return (1 << 16) - 1
    return (1 << 15) - 1 if version >= 3 else (1 << 14) - 1 if version == 2 else (1 << 13) - 1


def _rights(mode: str) -> int:
    return _WRITE if mode == "rw" else _READ


def _granted_whole(place: str, grants: list[tuple[str, str]]) -> int:
    rights = 0
    for path, mode in grants:
        if _contains(path, place):
            rights |= _rights(mode)
    return rights


def _allow_grant(ruleset: int, path: str, rights: int, workspace: str) -> None:
    components = inside(path)
    if components is None:
        _allow_path(ruleset, path, rights)
        return
    try:
        descriptor = open_beneath(workspace, components)
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise _through_link(path) from error
    try:
        if not _allow(ruleset, descriptor, rights):
            raise _through_link(path)
    finally:
        os.close(descriptor)


def _allow_path(ruleset: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return  # what cannot be opened is not granted
    try:
        _allow(ruleset, descriptor, rights)
    finally:
        os.close(descriptor)


def _allow(ruleset: int, descriptor: int, rights: int) -> bool:
    """Add one rule. False for a symbolic link: a rule on it would mean nothing."""
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISLNK(kind):
        return False
    if not stat.S_ISDIR(kind):
        rights &= _OF_A_FILE
    libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0)
    return True


def _contains(path: str, workspace: str) -> bool:
    return f"{workspace}/".startswith(path.rstrip("/") + "/")


def _beside(path: str, walled: list[str]) -> list[str]:
    """Every entry beneath `path` that neither is nor holds one of `walled`."""
    found = []
    here = path.rstrip("/")
    try:
        names = os.listdir(here or "/")
    except OSError:
        names = []
    for name in names:
        entry = f"{here}/{name}"
        if not any(_contains(entry, wall) for wall in walled):
            found.append(entry)
        elif entry not in walled:
            found += _beside(entry, walled)
    return found


def _through_link(path: str) -> Refused:
    return Refused(
        ErrorCode.INVALID_REQUEST,
        f"the granted path {path} goes through a symbolic link or a file; grant its target",
    )
