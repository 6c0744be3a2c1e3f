"""What is tried of jails in the lab, where control groups are of version 2 and nothing but what
is written here has made any; `test_groups.py` judges it.

This is the lab's first process. In each case a daemon's place among the groups is another one,
and so is who it is. There it is asked what it can enforce, which attacks every control, and the
tests of jails run. Only the standard library, the project and pytest are here.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import census
from lab.scenarios import REPORT, Facts, Lab, power_off_after, see_what_is_new, take_its_word
from mas_sandbox.runtimes import channel
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.cgroup_find import LEAF
from mas_sandbox.runtimes.jail import probe as probing
from mas_sandbox.runtimes.jail.launch import SETTING, LauncherName
from mas_sandbox.runtimes.jail.runtime import JailRuntime
from mas_sandbox.runtimes.ownership import Ownership

GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS = ("memory", "cpu", "pids", "io")
USER = 1000
HOMES = Path("/home")
PROBE_DEADLINE_S, TESTS_DEADLINE_S = 180.0, 420.0
NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
STILL_COUNTED_S = 2.0
"""The kernel gives a namespace back a while after the last process in it is gone."""
WALLS = ("tests/security/test_jail_walls.py", "tests/security/test_jail_limits.py")
_LAUNCHERS = "tests/unit/runtimes/jail/test_launchers.py"
LAUNCHERS = (
    _LAUNCHERS,
    f"--deselect={_LAUNCHERS}::test_where_a_zygote_can_build_no_jail_bubblewrap_does",
)
"""That one attacks every control once more, and is tried here by itself."""
GROUPS_THEMSELVES = tuple(f"tests/unit/runtimes/test_{name}.py" for name in ("cgroup", "freezer"))
FOR_ROOT = tuple(
    f"--deselect={test}"
    for test in (
        f"{WALLS[0]}::test_PR_02_the_daemons_environment_is_nowhere",
        f"{WALLS[0]}::test_PR_03_no_descriptor_of_the_daemon_comes_in",
        f"{_LAUNCHERS}::test_a_jail_of_the_zygotes_is_the_jail_that_bubblewrap_makes",
        f"{_LAUNCHERS}::test_the_zygote_holds_no_secret_and_no_right_it_does_not_need",
    )
)
"""They read what /proc shows of a toolrunner to root alone, proc(5)."""
PYTHON = (sys.executable, "-S")
PROBE = "from mas_sandbox.server.main import main; main(['-probe'])"


@dataclass(frozen=True)
class Case:
    """`user`: None for root; `alone`: in a group that has nobody else in it, for a user one that
    was handed over; else beside somebody in a session's, below one that was handed over;
    `stays`: the groups that are there when it has ended."""

    name: str
    launcher: str
    user: int | None
    alone: bool
    tests: tuple[str, ...]

    @property
    def stays(self) -> tuple[str, ...]:
        if not self.alone:
            return ("session",)
        return () if self.user is None else (LEAF,)


CASES = (
    Case("root", "bubblewrap", None, True, (*WALLS, *GROUPS_THEMSELVES)),
    Case("root in a session", "zygote", None, False, WALLS),
    Case("user", "bubblewrap", USER, True, (*WALLS, *FOR_ROOT)),
    Case("user in a session", "zygote", USER, False, (*WALLS, *LAUNCHERS, *FOR_ROOT)),
)


async def try_all(lab: Lab) -> None:
    before = census.take()
    for case in CASES:
        await lab.tell(f"{case.name}: controls", see_controls(case))
        await lab.tell(f"{case.name}: tests", run_tests(case))
    await lab.tell("few user namespaces", build_with(namespaces=2))
    await lab.tell("no user namespaces", build_with(namespaces=0))
    await lab.tell("left behind", see_what_is_new(before))


async def see_controls(case: Case) -> Facts:
    """What `mas-sandbox doctor` tells, of the jail."""
    with placed(case) as (place, enter):
        said = await finish((*PYTHON, "-c", PROBE), case, enter, PROBE_DEADLINE_S)
        jail = json.loads(said.stdout)["runtimes"]["jail"]
        return jail | {"groups": groups_in(place)}


async def run_tests(case: Case) -> Facts:
    command = (*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "lab.jails")
    with placed(case) as (place, enter):
        said = await finish((*command, *case.tests), case, enter, TESTS_DEADLINE_S)
        return {
            "status": said.returncode,
            "said": said.stdout.decode()[-12000:],
            "groups": groups_in(place),
        }


def pytest_configure() -> None:
    """This file is a plugin of the tests it runs: an emulated host takes its time to answer."""
    channel.GRACE_S = 10.0


async def build_with(namespaces: int) -> Facts:
    """A jail by a user who has none yet and may have so many user namespaces at once, of whom
    the zygote needs three."""
    case = Case(f"{namespaces} namespaces", "zygote", USER + 1 + namespaces, True, ())
    before = NAMESPACES.read_text()
    NAMESPACES.write_text(str(namespaces))
    try:
        with placed(case) as (_, enter):
            said = await finish(
                (*PYTHON, "-m", "lab.jails", "build"), case, enter, PROBE_DEADLINE_S
            )
            return dict(json.loads(said.stdout))
    finally:
        NAMESPACES.write_text(before)


class Unhurried(JailRuntime):
    async def give_up(self, name: LauncherName) -> None:
        await super().give_up(name)
        await asyncio.sleep(STILL_COUNTED_S)


async def build_one() -> Facts:
    probing.proven = take_its_word  # every attempt would be a sandbox more
    runtime = Unhurried(Ownership())
    probe = await runtime.probe()
    facts: Facts = {"available": probe.available, "reason": probe.reason, "mend": probe.mend}
    if probe.available:
        await asyncio.sleep(STILL_COUNTED_S)
        async with await runtime.start(SandboxSpec(mem_mb=64, pids=16)) as sandbox:
            facts |= probe.facts | {"enforced": sorted(sandbox.enforced)}
    await runtime.close()
    return facts


@contextmanager
def placed(case: Case) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A group for this case, and what a child calls to be in it as whom it is to be."""
    if case.user is None and case.alone:
        yield GROUPS, lambda: None
        return
    place = GROUPS / "handed"
    inside = make_group(place, case)
    beside = None if case.alone else subprocess.Popen(["sleep", "600"])
    if beside is not None:
        (inside / "cgroup.procs").write_text(str(beside.pid))
    try:
        yield place, lambda: enter(inside, case.user)
    finally:
        if beside is not None:
            beside.kill()
            beside.wait()
        for group in (*groups_in(place), ""):
            (place / group).rmdir()


def make_group(place: Path, case: Case) -> Path:
    """Where the case's process begins. What is handed to a user is handed over as the kernel's
    admin-guide/cgroup-v2.rst has it ("Delegation")."""
    hand_down(GROUPS)
    place.mkdir()
    if case.user is not None:
        for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(place / name, case.user, case.user)
    if case.alone:
        return place
    session = place / "session"
    session.mkdir()
    if case.user is not None:
        hand_down(place)
    return session


def hand_down(group: Path) -> None:
    (group / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in CONTROLLERS))


def enter(group: Path, user: int | None) -> None:
    (group / "cgroup.procs").write_text("0")
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def groups_in(place: Path) -> list[str]:
    return sorted(each.name for each in place.iterdir() if each.is_dir())


async def finish(
    command: tuple[str, ...], case: Case, enter: Callable[[], None], deadline_s: float
) -> subprocess.CompletedProcess[bytes]:
    return await asyncio.to_thread(
        lambda: subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if "pytest" in command else None,
            timeout=deadline_s,
            preexec_fn=enter,
            cwd="/lab",
            env=os.environ | environment(case),
            check=False,
        )
    )


def environment(case: Case) -> dict[str, str]:
    told = {"PYTHONPATH": "/lab:/lab/packages", SETTING: case.launcher}
    if case.user is not None:
        home = HOMES / case.name  # what one has found out is not for the next
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, case.user, case.user)
        told |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    return told


def prepare() -> None:
    """A host as one finds it, where memory is promised freely."""
    HOMES.mkdir(exist_ok=True)
    Path("/proc/sys/vm/overcommit_memory").write_text("1")
    Path("/proc/sys/kernel/printk").write_text("1")  # an emulated console takes its time


def main() -> None:
    if sys.argv[1:] == ["build"]:
        json.dump(asyncio.run(build_one()), sys.stdout)
        return
    prepare()
    with open(REPORT, "w", buffering=1) as report:
        asyncio.run(try_all(Lab(report.write)))


if __name__ == "__main__":
    power_off_after(main)
