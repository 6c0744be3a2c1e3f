"""Writes docs/enforcement.md; see scripts/enforcement."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from mas_sandbox.runtimes import local
from mas_sandbox.runtimes.base import ControlStatus
from mas_sandbox.runtimes.gvisor import probe as gvisor
from mas_sandbox.runtimes.jail import probe as jail
from mas_sandbox.runtimes.jail.mounts import IDMAPPED
from mas_sandbox.runtimes.microvm import probe as microvm
from mas_sandbox.runtimes.proof.attempts import ATTEMPTS
from mas_sandbox.wire.controls import Control

PATH = Path(__file__).parent.parent / "docs" / "enforcement.md"
GROUPS = dict.fromkeys(
    (Control.MEMORY, Control.CPU, Control.PIDS, Control.CPU_TIME, Control.IO), "cgroup v1 or v2"
)
NO_GROUPS: Mapping[Control, str] = {}
INTRODUCTION = """\
# Enforcement

<!-- Written by scripts/enforcement from the tables that the daemon goes by. -->

A policy that asks for a control is run where that control is held, or refused with
`policy_unenforceable`. Each reply's `enforced` lists what was in force. `mas-sandbox
doctor` and `GET /v1/runtimes` show this table for the host they run on.

## What holds what

On a host that lacks nothing. A dash: that runtime cannot, and refuses.

"""
TRIED = """
## The self-test

Before a runtime claims a control, it attacks it once, in a real sandbox, for each boot of
the host. A control that was broken, or that could not be tried, counts as not enforced, and
the attempt's outcome is given as the reason. `egress` and `bandwidth` are the daemon's own:
no sandbox has a part in them.

| control | what is tried |
|---|---|
"""
MENDS = """
## What a host may lack

| runtime | control | what mends it |
|---|---|---|
"""
LIMITS = """
## What the limits mean

- `memory` counts all processes together, page cache and files in scratch space included,
  and no swap.
- `cpu_time` is held twice. The toolrunner sums up the tree of a call's processes every
  50 ms. A program can hide from that sum, so the control group of the whole sandbox is
  held to what its calls may use together, with a quarter and 250 ms on top.
- `disk` and `disk_files` are for each of `/workspace` and `/tmp`, and for a host directory
  not at all: that is the host's.
- `io` is for each disk that a sandbox reaches: in a jail reads and writes each, in a machine
  both together. In a jail under cgroup v1, what the kernel writes out later is nobody's, so
  there a sandbox with a writable host directory and a limit of `io` is refused.

## Where control groups are made

Under cgroup v1, in the daemon's own group of each hierarchy. Under v2 a group that has
processes hands no controller to those below it. So a daemon that is alone in its group moves
to one in it, `mas-sandboxd`, and makes the others beside that. One that is not alone takes a
group above its own, as it is: for root the top, for others the one that belongs to them and
holds most. [The lab](microvm.md#the-lab) has all of these cases.
"""


def document() -> str:
    """The whole page."""
    best, worst = _runtimes(GROUPS, lacking=False), _runtimes(NO_GROUPS, lacking=True)
    lines = [f"| control | {' | '.join(best)} |", f"|---|{'---|' * len(best)}"]
    for control in Control:
        cells = [_mechanism(claims.get(control)) for claims in best.values()]
        lines.append(f"| `{control}` | {' | '.join(cells)} |")
    tried = [f"| `{each.control}` | {each.tries} |" for each in ATTEMPTS]
    mends = [
        f"| {name} | `{control}` | {status.mend} |"
        for name, claims in worst.items()
        for control, status in claims.items()
        if status.mend and best[name][control].enforced
    ]
    parts = [INTRODUCTION, *_lines(lines), TRIED, *_lines(tried), MENDS, *_lines(mends), LIMITS]
    return "".join(parts)


def main(arguments: list[str]) -> int:
    """The exit status: 1 for a page that is not current."""
    if arguments != ["--check"]:
        PATH.write_text(document())
        return 0
    if PATH.read_text() == document():
        return 0
    print(f"{PATH.name} is not current; run scripts/enforcement", file=sys.stderr)  # noqa: T201
    return 1


def _runtimes(
    groups: Mapping[Control, str], *, lacking: bool
) -> dict[str, dict[Control, ControlStatus]]:
    """Weakest first."""
    means = "" if lacking else IDMAPPED
    return {
        "local": local.claims(),
        "jail": jail.claims(groups, landlock=not lacking, host_paths=means),
        "gvisor": gvisor.claims(groups, host_paths=means),
        "microvm": microvm.claims(groups),
    }


def _mechanism(status: ControlStatus | None) -> str:
    return status.mechanism if status is not None and status.enforced else "-"


def _lines(rows: list[str]) -> list[str]:
    return [f"{row}\n" for row in rows]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
