"""The example agent over HTTP, every tool call of it in a virtual machine of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mas_sandbox.audit.verify import verify
from running_daemon import TOKEN, daemon

ROOT = Path(__file__).parents[2]


def test_the_example_agent_works_in_machines(tmp_path: Path, templates: Path) -> None:
    (tmp_path / "microvm").symlink_to(templates / "microvm")
    with daemon(tmp_path, runtime="microvm") as running:
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OPENAI")
        }
        chosen = {"MAS_SANDBOX_MODE": "http", "MAS_SANDBOX_URL": running.url}
        agent = subprocess.run(
            [sys.executable, str(ROOT / "examples" / "sandbox_agent.py")],
            env=environment | chosen | {"MAS_SANDBOX_TOKEN": TOKEN},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert agent.returncode == 0, agent.stderr
        assert "15 * 8 + 7 = 127" in agent.stdout
        assert "isolation vm" in agent.stdout
        assert "3 calls ran, 2 were stopped." in agent.stdout
        uname = running.execute("bash", {"command": "uname -r"})
        assert uname["isolation"] == "vm"
        assert uname["result"].strip() != os.uname().release
        log = tmp_path / "audit.jsonl"
    verification = verify(log)
    assert verification.ok
    assert verification.calls == 6
