"""What docs/sdk.md shows runs as shown, and the example agent works in both modes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from running_daemon import TOKEN, RunningDaemon

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/sdk.md").read_text(), re.DOTALL)
DAEMON = [sys.executable, "-m", "mas_sandbox.server.main", "-runtime", "local"]


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MAS_SANDBOX", "OPENAI"))
    }
    return kept | {"MAS_SANDBOX_STATE": str(tmp_path)} | variables


def finished(program: list[str], variables: dict[str, str]) -> str:
    ended = subprocess.run(
        program, env=variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture
def url(running: RunningDaemon) -> str:
    return running.url


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[-1][:40])
def test_a_block_of_the_sdk_page_runs(block: str, url: str, tmp_path: Path) -> None:
    printed = finished(
        [sys.executable, "-c", block],
        environment(tmp_path, MAS_SANDBOX_URL=url, MAS_SANDBOX_TOKEN=TOKEN),
    )
    for promised in re.findall(r"print\(.*\)  # (.*)", block):
        assert promised in printed.splitlines()


def check_example(printed: str) -> None:
    assert "15 * 8 + 7 = 127" in printed
    assert "no OPENAI_API_KEY is set" in printed
    assert "policy_denied denied by call/no-downloads" in printed
    assert "3 calls ran, 2 were stopped." in printed


def test_the_example_agent_runs_over_http(url: str, tmp_path: Path) -> None:
    printed = finished(
        [sys.executable, str(ROOT / "examples/sandbox_agent.py")],
        environment(
            tmp_path, MAS_SANDBOX_MODE="http", MAS_SANDBOX_URL=url, MAS_SANDBOX_TOKEN=TOKEN
        ),
    )
    check_example(printed)
    assert url in printed


def test_the_example_agent_runs_with_a_daemon_of_its_own(tmp_path: Path) -> None:
    printed = finished(
        [sys.executable, str(ROOT / "examples/sandbox_agent.py")],
        environment(tmp_path, MAS_SANDBOXD=" ".join(DAEMON)),
    )
    check_example(printed)
