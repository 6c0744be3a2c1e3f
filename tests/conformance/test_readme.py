"""What the README shows works as shown, behind real walls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from mas_sandbox.policy.file import load_policy_file
from running_daemon import TOKEN, daemon

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    found = [
        text
        for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        if containing in text
    ]
    assert len(found) == 1, containing
    return str(found[0])


def run(argv: list[str], lines: str = "", env: dict[str, str] | None = None) -> str:
    result = subprocess.run(
        argv, input=lines, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_sandbox_example_runs(tmp_path: Path) -> None:
    example = block("python", "Sandbox.create")
    with daemon(tmp_path) as running:
        variables = {"MAS_SANDBOX_URL": running.url, "MAS_SANDBOX_TOKEN": TOKEN}
        said = run([sys.executable, "-c", example], env=os.environ | variables)
    promised = re.findall(r"print\(.*\)  # (.*)", example)
    assert said.split() == promised == ["agent", "5", "12.57"]


def test_the_sdk_example_runs() -> None:
    said = run([sys.executable, "-c", block("python", "LocalExecutor")])
    sum_line, run_line, *_, denied = said.splitlines()
    assert sum_line == "127"
    assert run_line.startswith("0 agent")
    assert denied.startswith("policy_denied - ")


def test_the_operators_tool_runs(tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(block("python", "def greet"))
    call = {"id": 1, "tool": "greet", "args": {"name": "you", "times": 2}}
    daemon = [sys.executable, "-m", "mas_sandbox.server.main"]
    reply = json.loads(run([*daemon, "-tools", str(tmp_path / "greet.py")], json.dumps(call)))
    assert reply["result"] == "hello you, hello you"


def test_the_policy_is_a_policy(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(block("yaml", "principals"))
    path.chmod(0o600)
    assert load_policy_file(path).principals.authenticate("test") is not None


def test_the_shell_lines_run() -> None:
    lines = block("sh", "mas-sandboxd").strip()
    assert (
        json.loads(run(["sh", "-c", f"PATH={Path(sys.executable).parent}:$PATH; {lines}"]))[
            "result"
        ]
        == 42
    )
    for command in ("doctor", "run", "serve", "audit"):
        assert f"mas-sandbox {command}" in README


def test_every_page_it_names_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    for script in re.findall(r"^(scripts/\S+)", README, re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK), script
