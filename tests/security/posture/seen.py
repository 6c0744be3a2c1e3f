"""What a process is, as the host sees it, in words that are the same on every host.

proc_pid_status(5), proc_pid_mountinfo(5), namespaces(7), capabilities(7). What is simply the
daemon's own is called that: it depends on who started the daemon.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .filters import filters_of

CAPABILITIES = (
    *("chown", "dac_override", "dac_read_search", "fowner", "fsetid", "kill", "setgid", "setuid"),
    *("setpcap", "linux_immutable", "net_bind_service", "net_broadcast", "net_admin", "net_raw"),
    *("ipc_lock", "ipc_owner", "sys_module", "sys_rawio", "sys_chroot", "sys_ptrace", "sys_pacct"),
    *("sys_admin", "sys_boot", "sys_nice", "sys_resource", "sys_time", "sys_tty_config", "mknod"),
    *("lease", "audit_write", "audit_control", "setfcap", "mac_override", "mac_admin", "syslog"),
    *("wake_alarm", "block_suspend", "audit_read", "perfmon", "bpf", "checkpoint_restore"),
)
_SETS = {"Inh": "inheritable", "Prm": "permitted", "Eff": "effective", "Bnd": "bounding"}
_SETS |= {"Amb": "ambient"}
_FLAGS = ("ro", "rw", "nosuid", "nodev", "noexec")
_PSEUDO = ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "ramfs", "9p")
_DAEMON = "the daemon's"
_ALL_IDS = "4294967295"
_CORE = re.compile(r"Max core file size +(\S+) +(\S+)")
_SHELLS = {"PWD", "OLDPWD", "SHLVL", "_"}
"""Variables that a shell makes, or an interpreter that is started without any."""

Posture = dict[str, Any]


def posture(process: int) -> Posture:
    """Of a process; raises AssertionError where its threads are not all alike."""
    first, *others = sorted(int(task.name) for task in Path(f"/proc/{process}/task").iterdir())
    whole = _of_thread(first)
    for thread in others:
        assert _of_thread(thread) == whole, f"thread {thread} of {process} is not like the first"
    return whole | {
        "filters": _filters(process),
        "mounts": _mounts(process),
        "descriptors": sorted({kind(link) for link in _links(process)}),
        "environment": _environment(process),
    }


def _of_thread(thread: int) -> Posture:
    seen, ours = status(thread), status(os.getpid())
    users = {*seen["Uid"].split(), *seen["Gid"].split()}
    own = users.pop() if len(users) == 1 else "more than one"
    place = Path(f"/proc/{thread}")
    return {
        "user": "a user of its own" if own not in ("0", "more than one") else own,
        "groups": seen["Groups"].split(),
        "uid_map": _map(place / "uid_map", own),
        "gid_map": _map(place / "gid_map", own),
        "capabilities": {
            name: _capabilities(seen[f"Cap{short}"], ours[f"Cap{short}"])
            for short, name in _SETS.items()
        },
        "no_new_privs": seen["NoNewPrivs"] == "1",
        "seccomp": {"0": "none", "2": "filter"}[seen["Seccomp"]],
        "namespaces": namespaces(thread),
        "core_dumps": _core_dumps(place / "limits"),
        "is_killed_before_the_daemon": _score(thread) > _score(os.getpid()),
    }


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def namespaces(process: int) -> list[str]:
    """The kinds of which it is not in the daemon's."""
    kinds = [each for each in os.listdir("/proc/self/ns") if not each.endswith("_for_children")]
    return sorted(
        each
        for each in kinds
        if os.readlink(f"/proc/{process}/ns/{each}") != os.readlink(f"/proc/self/ns/{each}")
    )


def _map(path: Path, own: str) -> list[str] | str:
    if path.read_text() == Path("/proc/self", path.name).read_text():
        return _DAEMON
    lines = [line.split() for line in path.read_text().splitlines()]
    return [
        f"{inside} {'own' if outside == own else outside} {'all' if count == _ALL_IDS else count}"
        for inside, outside, count in lines
    ]


def _capabilities(held: str, ours: str) -> list[str] | str:
    number = int(held, 16)
    if number == 0:
        return []
    if number == (1 << (int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1)) - 1:
        return "all"
    if held == ours:
        return _DAEMON
    return [name for bit, name in enumerate(CAPABILITIES) if number >> bit & 1]


def _core_dumps(limits: Path) -> str:
    """The daemon's are off; whoever tests without one may allow them."""
    size, ours = (_CORE.findall(each.read_text()) for each in (limits, Path("/proc/self/limits")))
    return _DAEMON if size == ours else "none" if size == [("0", "0")] else str(size)


def _score(process: int) -> int:
    return int(Path(f"/proc/{process}/oom_score_adj").read_text())


def _mounts(process: int) -> list[str] | str:
    if "mnt" not in namespaces(process):
        return _DAEMON
    return mounts(Path(f"/proc/{process}/mountinfo").read_text())


def mounts(mountinfo: str) -> list[str]:
    """Path, kind and what may not be done there, of each."""
    found = set()
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        root, path, options = left.split(" ")[3:6]
        device = path.startswith("/dev/") and root == f"/{path.rpartition('/')[2]}"
        of = right.split(" ")[0]
        what = "device" if device else of if of in _PSEUDO else "the host's"
        flags = ",".join(each for each in _FLAGS if each in options.split(","))
        found.add(f"{path} {what} {flags}")
    return sorted(found)


def _links(process: int) -> list[str]:
    found = []
    for each in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.append(os.readlink(each))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def kind(link: str) -> str:
    """Of an open file, by what its link says."""
    if link.startswith(("pipe:", "socket:")):
        return link.partition(":")[0]
    if link.startswith("anon_inode:"):
        return link.removeprefix("anon_inode:").strip("[]")
    if link.startswith("/memfd:"):
        return "memory " + link.removeprefix("/memfd:").removesuffix(" (deleted)")
    if link == "/root" or link.startswith("/root/"):
        return "a file that it serves"
    if "/images/" in link:
        return "image " + link.rpartition("/")[2]
    return link


def _filters(process: int) -> list[str] | int:
    """Digests of those that the daemon is not under itself; how many where somebody else
    traces the process."""
    count = int(status(process)["Seccomp_filters"]) - int(status(os.getpid())["Seccomp_filters"])
    if count == 0 or status(process)["TracerPid"] != "0":
        return count
    return filters_of(process)[:count]


def _environment(process: int) -> list[str]:
    names = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    found = {name.partition(b"=")[0].decode() for name in names if name}
    return sorted(found - _SHELLS)
