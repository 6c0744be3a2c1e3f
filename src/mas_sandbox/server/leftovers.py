"""What dead daemons left, for `mas-sandbox doctor --leftovers`, and its removal at the start."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from mas_sandbox.runtimes.leftovers import find_leftovers, remove_leftovers
from mas_sandbox.runtimes.ownership import Locks

log = logging.getLogger(__name__)


def print_leftovers(state: Path) -> None:
    """Write them to standard output as one JSON document; nothing is removed."""
    found = [asdict(each) for each in find_leftovers(Locks(), state)]
    sys.stdout.write(json.dumps({"leftovers": found}, indent=2) + "\n")


def reclaim(state: Path) -> None:
    """Remove them, and warn of what stays. Blocks."""
    for left in remove_leftovers(Locks(), state):
        log.warning("a dead daemon's %s cannot be removed: %s", left.kind, left.name)
