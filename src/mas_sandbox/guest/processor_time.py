"""Processor time of a call: its main process, all below it, and what those have waited for.

What is not in this sum, a child that died and that nobody waited for, is in the count of
the host, which holds the sandbox to it. Fields: proc_pid_stat(5).
"""

from __future__ import annotations

import os

_PER_SECOND = os.sysconf("SC_CLK_TCK")


def tree_ms(main: int) -> int:
    """What `main` and its descendants have used so far; 0 where there is no /proc."""
    children: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for process, parent, ticks in _processes():
        children.setdefault(parent, []).append(process)
        used[process] = ticks
    total, pending = 0, [main]
    while pending:
        process = pending.pop()
        total += used.get(process, 0)
        pending += children.pop(process, ())  # popped, so that no list is walked twice
    return total * 1000 // _PER_SECOND


def _processes() -> list[tuple[int, int, int]]:
    """(id, parent, clock ticks of its own and of the children it waited for) of each."""
    found = []
    try:
        names = os.listdir("/proc")
    except FileNotFoundError:
        return []
    for name in names:
        if name.isdigit():
            try:
                descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue  # it is gone
            try:
                line = os.read(descriptor, 4096)
            except OSError:
                continue
            finally:
                os.close(descriptor)
            # The program's name stands in parentheses and may hold any byte.
            fields = line[line.rindex(b")") + 2 :].split()
            found.append((int(name), int(fields[1]), sum(map(int, fields[11:15]))))
    return found
