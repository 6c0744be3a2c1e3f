"""What is left of a gVisor sandbox whose daemon is killed."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from pathlib import Path

import pytest

from mas_sandbox.runtimes.cgroup import Cgroups, find_hierarchies
from mas_sandbox.runtimes.ownership import Ownership

pytestmark = pytest.mark.anyio

_DAEMON = """
import asyncio, json, sys
from pathlib import Path
from mas_sandbox.runtimes.base import SandboxSpec
from mas_sandbox.runtimes.gvisor.posture import descendants
from mas_sandbox.runtimes.gvisor.runtime import GvisorRuntime
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.messages import Call

async def main():
    ownership = Ownership()
    sandbox = await GvisorRuntime(ownership).start(SandboxSpec(pids=30))
    call = asyncio.create_task(sandbox.run(Call("bash", {"command": "sleep 81.5 & sleep 81.5"})))
    await asyncio.sleep(0.5)
    found = {"token": ownership.token, "processes": [sandbox.init, *descendants(sandbox.init)]}
    print(json.dumps(found), flush=True)
    await call

asyncio.run(main())
"""


async def test_no_process_outlives_it_and_the_next_daemon_removes_its_groups() -> None:
    daemon = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DAEMON, stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None
    found = json.loads(await daemon.stdout.readline())
    assert len(found["processes"]) >= 4
    daemon.send_signal(signal.SIGKILL)
    await daemon.wait()
    async with asyncio.timeout(5):
        while any(Path(f"/proc/{process}").exists() for process in found["processes"]):
            await asyncio.sleep(0.02)
    ownership = Ownership()
    Cgroups(ownership)
    groups = [
        path
        for hierarchy in find_hierarchies()
        for path in hierarchy.parent.glob(f"*{found['token']}*")
    ]
    ownership.close()
    assert groups == []
