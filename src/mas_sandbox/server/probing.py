"""What this host can enforce, for `mas-sandbox doctor`."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from mas_sandbox import __version__
from mas_sandbox.runtimes.base import Probe
from mas_sandbox.runtimes.select import probe_all
from mas_sandbox.wire.isolation import Isolation


async def print_probes(state: Path) -> None:
    """Write every runtime's probe to standard output as one JSON document."""
    probes = await probe_all(state)
    document = {
        "version": __version__,
        "host": {
            "kernel": platform.release(),
            "python": platform.python_version(),
            "uid": os.geteuid(),
        },
        "runtimes": {name: _described(name, *found) for name, found in probes.items()},
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _described(name: str, isolation: Isolation, probe: Probe) -> dict[str, object]:
    return {
        "available": probe.available,
        "taken_by_auto": probe.available and probe.taken_by_auto and name != "local",
        "version": probe.version,
        "reason": probe.reason,
        "mend": probe.mend,
        "warning": probe.warning,
        "isolation": str(isolation),
        "facts": dict(probe.facts) or None,
        "controls": {
            str(control): {
                "enforced": status.enforced,
                "mechanism": status.mechanism,
                "mend": status.mend,
            }
            for control, status in probe.controls.items()
        },
    }
