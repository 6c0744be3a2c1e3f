"""What one daemon has on its host, whatever other daemons do there meanwhile."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import census
from mas_sandbox.runtimes.cgroup_find import find_freezer, find_hierarchies
from running_daemon import RunningDaemon

_TOKEN = re.compile(r"mas-sandbox-([0-9a-f]{24})-")


@dataclass(frozen=True)
class Held:
    """Of one daemon, at one moment. `descriptors`: how many of each kind, where this user may
    count them."""

    processes: frozenset[int]
    groups: frozenset[str]
    temporary: frozenset[str]
    mounts: frozenset[str]
    descriptors: Counter[str]


class Belongings:
    """Of a daemon in which a sandbox runs: by that its token is found."""

    def __init__(self, running: RunningDaemon, state: Path) -> None:
        self._daemon = running.process.pid
        self._state = state
        self.token = _token(self._daemon)
        freezer = find_freezer()
        hierarchies = [*([freezer] if freezer else []), *find_hierarchies()]
        self._groups = sorted({each.parent for each in hierarchies})

    def held(self) -> Held:
        name = f"mas-sandbox-{self.token}-*"
        return Held(
            processes=frozenset(descendants(self._daemon)) - census.zygotes(),
            groups=frozenset(str(path) for each in self._groups for path in each.glob(name)),
            temporary=frozenset(
                str(path)
                for pattern in (Path(tempfile.gettempdir()).glob(name), self._state.rglob(name))
                for path in pattern
            ),
            mounts=frozenset(
                line
                for line in Path("/proc/self/mountinfo").read_text().splitlines()
                if self.token in line or f" {self._state}/" in line
            ),
            descriptors=_descriptors(self._daemon),
        )

    def none(self, within_s: float = 10.0) -> Held:
        """What the daemon holds as soon as it has no sandbox."""
        deadline = time.monotonic() + within_s
        while (held := self.held()).processes or held.groups or held.temporary:
            assert time.monotonic() < deadline, held
            time.sleep(0.02)
        return held

    def come_to(self, wanted: Held, within_s: float = 10.0) -> None:
        """Wait until the daemon has this and nothing else."""
        deadline = time.monotonic() + within_s
        while (held := self.held()) != wanted:
            assert time.monotonic() < deadline, f"{held} is not {wanted}"
            time.sleep(0.02)

    def gone(self, processes: frozenset[int], within_s: float) -> None:
        """Wait until these processes have ended, whoever is their parent now."""
        deadline = time.monotonic() + within_s
        while left := processes & {each for each, words in census.commands().items() if words}:
            assert time.monotonic() < deadline, [census.commands().get(each) for each in left]
            time.sleep(0.02)

    def left(self) -> set[str]:
        """What there is of a daemon that has ended, besides processes."""
        held = self.held()
        return {*held.groups, *held.temporary, *held.mounts}


def descendants(process: int) -> list[int]:
    """Those that live, the nearest first."""
    beneath: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                beneath.setdefault(int(parent), []).append(int(path.name))
    found = beneath.get(process, [])
    for each in found:  # it grows as it is read
        found += beneath.get(each, [])
    return found


def _token(daemon: int) -> str:
    for process in descendants(daemon):
        for file in ("cmdline", "cgroup"):
            with suppress(OSError):
                words = Path(f"/proc/{process}/{file}").read_text(errors="replace")
                if found := _TOKEN.search(words):
                    return found[1]
    raise AssertionError("no sandbox of this daemon runs")


def _descriptors(process: int) -> Counter[str]:
    counted: Counter[str] = Counter()
    with suppress(PermissionError, FileNotFoundError):
        for descriptor in os.listdir(f"/proc/{process}/fd"):
            with suppress(FileNotFoundError):
                counted[os.readlink(f"/proc/{process}/fd/{descriptor}").split(":[")[0]] += 1
    return counted
