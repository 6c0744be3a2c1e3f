"""A description that would leave something out is refused, not followed in part."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mas_sandbox.guest.zygote.words import Description, UnknownError, steps_of
from mas_sandbox.runtimes.jail.layout import plan_common, plan_jail


@pytest.fixture
def plan() -> list[str]:
    with ExitStack() as undo:
        return plan_jail(seccomp=[b"filter"], scratch_mb=8, undo=undo, runner=b"zip").arguments


def test_what_bubblewrap_is_told_is_understood(plan: list[str]) -> None:
    read = Description(plan)
    assert (read.user, read.group, read.hostname) == (1000, 1000, "sandbox")
    assert read.directory == "/workspace"
    assert len(read.filters) == 1
    assert ("--tmpfs", ["/workspace"], 0o700, 8 << 20) in read.steps
    assert read.steps[-1] == ("--remount-ro", ["/"], -1, -1)


def test_what_is_common_and_what_is_not_are_the_whole() -> None:
    with ExitStack() as undo:
        whole = plan_jail(seccomp=[b"f"], scratch_mb=8, undo=undo, runner=b"zip").arguments
        own = plan_jail(seccomp=[b"f"], scratch_mb=8, undo=undo, runner=None).arguments
        common = plan_common(b"zip", undo).arguments
    numbers = str.isdigit
    told = [word for word in whole if not numbers(word)]
    apart = [word for word in own + common if not numbers(word)]
    # The zygote makes devices for all jails, and terminals for each.
    assert sorted([*told, "--dev", "/dev"]) == sorted(apart)


@pytest.mark.parametrize(
    "without",
    [
        "--unshare-user",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup-try",
        "--disable-userns",
        "--die-with-parent",
        "--new-session",
    ],
)
def test_a_jail_without_one_of_its_walls_is_refused(plan: list[str], without: str) -> None:
    plan.remove(without)
    with pytest.raises(UnknownError, match=without):
        Description(plan)


@pytest.mark.parametrize(
    "words", [["--bind", "/", "/"], ["--share-net"], ["--cap-add", "ALL"], ["--chdir"]]
)
def test_a_word_that_is_not_known_is_refused(plan: list[str], words: list[str]) -> None:
    with pytest.raises(UnknownError):
        Description(plan + words)


def test_nobody_is_root_and_nobody_keeps_a_capability(plan: list[str]) -> None:
    for word, value in (("--uid", "0"), ("--gid", "0"), ("--cap-drop", "CAP_CHOWN")):
        changed = plan.copy()
        changed[changed.index(word) + 1] = value
        with pytest.raises(UnknownError):
            Description(changed)


def test_a_jail_without_a_filter_is_refused(plan: list[str]) -> None:
    position = plan.index("--add-seccomp-fd")
    del plan[position : position + 2]
    with pytest.raises(UnknownError, match="seccomp"):
        Description(plan)


def test_what_is_common_is_nothing_but_a_tree() -> None:
    assert steps_of(["--dir", "/tmp"]) == [("--dir", ["/tmp"], -1, -1)]
    with pytest.raises(UnknownError):
        steps_of(["--dir", "/tmp", "--unshare-user"])
