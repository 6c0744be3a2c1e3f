"""What this host can enforce, for `mas-sandbox doctor`."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

from mas_sandbox import __version__
from mas_sandbox.runtimes.base import Probe
from mas_sandbox.runtimes.select import build_runtime, probe_all


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
        "runtimes": {name: await _described(name, probe) for name, probe in probes.items()},
    }
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


async def _described(name: str, probe: Probe) -> dict[str, object]:
    runtime = build_runtime(name)
    await runtime.close()
    return {
        "available": probe.available,
        "taken_by_auto": probe.available and probe.taken_by_auto and name != "local",
        "version": probe.version,
        "reason": probe.reason,
        "mend": probe.mend,
        "isolation": str(runtime.isolation),
        "controls": {
            str(control): {
                "enforced": status.enforced,
                "mechanism": status.mechanism,
                "mend": status.mend,
            }
            for control, status in probe.controls.items()
        },
    }
