"""What a call and its toolrunner are, as they see it themselves, behind any wall."""

from __future__ import annotations

import json

from mas_sandbox.runtimes.base import Sandbox
from mas_sandbox.wire.messages import Call

from .seen import Posture, kind, mounts

_LOOK = r"""
import json, os
def status(process):
    lines = open(f'/proc/{process}/status').read().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(':') for line in lines)}
links = {}
for name in os.listdir('/proc/self/fd'):
    try: links[name] = os.readlink(f'/proc/self/fd/{name}')
    except OSError: pass
print(json.dumps({
    'call': status('self'), 'toolrunner': status(os.getppid()), 'links': sorted(links.values()),
    'mounts': open('/proc/self/mountinfo').read(), 'environment': sorted(os.environ),
    'user': [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), *os.getgroups()],
    'parent': os.getppid(),
}))
"""
_FIELDS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")


async def look(sandbox: Sandbox) -> dict[str, Posture]:
    outcome = await sandbox.run(Call("python", {"code": _LOOK}, timeout_ms=60_000))
    assert outcome.exit_code == 0, outcome.stderr
    said = json.loads(outcome.stdout)
    return {
        "inside-call": _status(said["call"])
        | {
            "user": sorted(set(said["user"])),
            "mounts": mounts(said["mounts"]),
            "descriptors": sorted({_open(link) for link in said["links"]}),
            "environment": said["environment"],
        },
        "inside-toolrunner": _status(said["toolrunner"]),
    }


def _status(seen: dict[str, str]) -> Posture:
    """Where a kernel says nothing of a field, there is nothing."""
    return {field: seen.get(field, "") for field in _FIELDS}


def _open(link: str) -> str:
    return "its own descriptors" if link.startswith("/proc/") else kind(link).partition(":")[0]
