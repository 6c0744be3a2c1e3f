"""Where runsc itself runs: a bubblewrap of its own, as a plan that can be printed and tested.

runsc, its gofer and its sandbox process see a file system in memory that holds the
bundle, read-only `/usr`, and the host directories that the sandbox was granted; they
have namespaces of their own, so that runsc's control socket, which versions before 2023
put where any local user could reach it, is out of everybody's reach; and with the first
process of the PID namespace the kernel ends all of them, whatever happens to the daemon.
No file of it is on the host, so none can be left there.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from ..jail.layout import ETC, ETC_OF_USR, RUNNER, USR_LINKS, Bind, Plan
from ..jail.seccomp_setuid import setuid_filter
from . import statx
from .bundle import BUNDLE, ROOT, mount_source

STATE = "/run"
"""Where runsc keeps the container's state."""
_PLACES = ("proc", "sys", "dev", "tmp", "workspace", "run/mas", "etc")
KVM = "/dev/kvm"


def plan_runsc(
    *,
    runner: bytes,
    configuration: bytes,
    binds: Sequence[Bind],
    users: int | None,
    info: int,
    kvm: bool,
    mends_statx: bool,
    undo: ExitStack,
) -> Plan:
    """What bubblewrap is told about one runsc.

    `runner`: the toolrunner's archive; `binds`: host directories, and where they appear
    inside; `users`: an open user namespace, None for one of bubblewrap's own; `info`:
    where bubblewrap tells of itself; `mends_statx`: as `programs.Tools` has it; `undo`
    holds what must be closed once bubblewrap has started.
    """
    plan = Plan(descriptors=[info])
    if users is None:
        plan.add("--unshare-user", "--uid", "0", "--gid", "0")
    else:
        plan.add("--userns", str(users))
        plan.descriptors.append(users)
    plan.add("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts")
    plan.add("--unshare-cgroup-try", "--die-with-parent")
    # In that user namespace alone: what runsc builds its walls with.
    plan.add("--cap-add", "ALL")
    plan.add("--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev")
    if kvm:
        plan.add("--dev-bind", KVM, KVM)
    plan.add("--tmpfs", STATE, "--dir", "/tmp", "--tmpfs", BUNDLE)  # noqa: S108
    _add_root(plan, runner, [bind.path for bind in binds], undo)
    if mends_statx:
        plan.add_file(statx.library(), f"{ROOT}{statx.PATH}", undo)
        plan.add_file(f"{statx.PATH}\n".encode(), f"{ROOT}{statx.PRELOAD}", undo)
    for position, bind in enumerate(binds):
        plan.add_bind(replace(bind, path=mount_source(position)))
    if any(bind.writable for bind in binds):
        plan.add("--add-seccomp-fd", str(plan.memory(setuid_filter(), undo)))
    plan.add_file(configuration, f"{BUNDLE}/config.json", undo)
    plan.add("--remount-ro", BUNDLE, "--remount-ro", "/", "--info-fd", str(info))
    return plan


def runsc_command(runsc: str, flags: tuple[str, ...], platform: str) -> list[str]:
    """The command line inside: `flags`, out of `OPTIONAL_FLAGS`, are what this runsc knows."""
    return [
        *(runsc, "--root", STATE, "--rootless", "--network=none", "--ignore-cgroups"),
        *(f"--platform={platform}", "--oci-seccomp", "--watchdog-action=panic"),
        *(f"--{flag}" for flag in flags),
        *("run", "--bundle", BUNDLE, "sandbox"),
    ]


OPTIONAL_FLAGS = ("host-uds=none", "host-fifo=none", "overlay2=none", "directfs=false")
"""Said where runsc knows them: no socket or FIFO of the host's, nothing kept in layers,
and files only through the gofer."""


def _add_root(plan: Plan, runner: bytes, places: list[str], undo: ExitStack) -> None:
    """The sandbox's root directory, in memory but for `/usr`."""
    for name in (*_PLACES, *(place.lstrip("/") for place in places)):
        plan.add("--dir", f"{ROOT}/{name}")
    plan.add("--ro-bind", "/usr", f"{ROOT}/usr")
    for name in USR_LINKS:
        path = Path("/") / name
        for root in ("", ROOT):
            if path.is_symlink():
                plan.add("--symlink", str(path.readlink()), f"{root}{path}")
            elif path.is_dir():
                plan.add("--ro-bind", str(path), f"{root}{path}")
    for name in ETC_OF_USR:
        # What bubblewrap makes on the way to a bind is for its own user alone.
        plan.add("--dir", str(Path(f"{ROOT}{name}").parent))
        plan.add("--ro-bind-try", name, f"{ROOT}{name}")
    for name, text in ETC.items():
        plan.add_file(text.encode(), f"{ROOT}{name}", undo)
    plan.add_file(runner, f"{ROOT}{RUNNER}", undo)
