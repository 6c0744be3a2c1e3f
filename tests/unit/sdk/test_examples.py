"""The examples in the SDK's docstrings run as they are, against a real daemon; and its types
are complete for whoever uses it."""

from __future__ import annotations

import doctest
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from mas_sandbox import sdk
from running_daemon import TOKEN, RunningDaemon

FINDER = doctest.DocTestFinder(exclude_empty=True)


def modules() -> list[ModuleType]:
    found = pkgutil.walk_packages(sdk.__path__, f"{sdk.__name__}.")
    return [import_module(each.name) for each in found]


EXAMPLES = [test for module in modules() for test in FINDER.find(module) if test.examples]
SHOWN = {"run", "processes", "files", "code", "ports"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_runs(
    example: doctest.DocTest, running: RunningDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAS_SANDBOX_URL", running.url)
    monkeypatch.setenv("MAS_SANDBOX_TOKEN", TOKEN)
    said: list[str] = []
    doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not said, "".join(said)


def test_every_part_of_a_sandbox_has_an_example() -> None:
    shown = {test.name.rpartition(".")[2] for test in EXAMPLES if ".Sandbox." in test.name}
    assert shown >= SHOWN


USER = """
from mas_sandbox.sdk import AsyncSandbox, Output, Sandbox

with Sandbox.create(metadata={"run": "r"}) as sb:
    said: str = sb.run("x", timeout=2.5).check().stdout
    data: list[bytes] = [each.data for each in sb.processes.stream("x") if isinstance(each, Output)]
    sb.files.write("x", 1)  # wrong
    text: str = sb.code.run("1").text  # wrong
    Sandbox.create(no_such_option=1)  # wrong

async def main() -> None:
    async with await AsyncSandbox.create() as sb:
        async for change in sb.files.watch():
            path: str = change.path
        with sb.files.watch() as changes:  # wrong
            pass
        reply: bytes = await (await sb.ports.connect(80)).read()
"""


def test_a_users_program_is_checked_strictly(tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text(USER)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    wrong = {n for n, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
    told = {int(line.split(":")[1]) for line in checked.stdout.splitlines() if ": error:" in line}
    assert told == wrong, checked.stdout
