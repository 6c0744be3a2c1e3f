"""The processes of a daemon, found in one pass: a soak looks often."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path


def below(process: int) -> list[int]:
    """Every descendant of a process, parents before their children."""
    by_parent: dict[int, list[int]] = defaultdict(list)
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended
            by_parent[parent].append(int(path.name))
    found = list(by_parent[process])
    for each in found:  # it grows as it is read
        found += by_parent[each]
    return found
