"""bash and python: what they exec, run here as the call's process would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools import NAMES, ToolFailure, load


@pytest.fixture
def files(tmp_path: Path) -> Files:
    (tmp_path / "sub").mkdir()
    return Files([("/workspace", "rw")], str(tmp_path))


def argv(tool: str, files: Files, **args: object) -> tuple[list[str], list[int]]:
    program = load(tool).program
    assert program is not None
    return program(args, files)


def output(tool: str, files: Files, **args: object) -> str:
    command, kept = argv(tool, files, **args)
    try:
        return subprocess.run(
            command, pass_fds=kept, capture_output=True, text=True, check=True, timeout=20
        ).stdout
    finally:
        for descriptor in kept:
            os.close(descriptor)


def test_bash_runs_a_command(files: Files) -> None:
    assert output("bash", files, command="echo one; echo $((1 + 1)) | cat") == "one\n2\n"
    assert argv("bash", files, command="x")[0][0] == "/bin/bash"


def test_python_runs_a_program_with_this_interpreter(files: Files) -> None:
    assert (
        output("python", files, code="import sys\nprint(sys.executable)") == sys.executable + "\n"
    )
    assert output("python", files, code="import site; print(site.ENABLE_USER_SITE)") == "False\n"


def test_a_script_too_long_for_an_argument_is_run_all_the_same(files: Files) -> None:
    for size in (100 * 1024, 140 * 1024, 900 * 1024):
        padding = f"# {'x' * size}\n"
        assert output("bash", files, command=f"{padding}read line; echo $line; echo end") == (
            "\nend\n"
        )
        program = f"{padding}import sys\nprint(__name__, sys.path[0], sorted(globals()))"
        long = output("python", files, code=program)
        assert long == output("python", files, code=program.removeprefix(padding))
        assert long.startswith("__main__")


def test_a_long_script_is_no_file_of_the_workspace(files: Files, tmp_path: Path) -> None:
    _, kept = argv("bash", files, command="#" * 200_000)
    assert len(kept) == 1
    os.close(kept[0])
    assert os.listdir(tmp_path) == ["sub"]


def test_bash_enters_a_directory_beneath_and_no_other(files: Files, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("/etc")
    for path in ("..", "/etc", "out", "sub/../.."):
        with pytest.raises(ToolFailure) as caught:
            argv("bash", files, command="pwd", cwd=path)
        assert caught.value.code == "invalid_request"
    before = os.getcwd()
    try:
        assert output("bash", files, command="pwd", cwd="sub") == f"{tmp_path}/sub\n"
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    ("tool", "args"),
    [
        ("bash", {}),
        ("bash", {"command": 1}),
        ("bash", {"command": "a\0b"}),
        ("bash", {"command": "lone \udc80"}),
        ("bash", {"command": "x", "env": {}}),
        ("bash", {"command": "x", "cwd": None}),
        ("python", {}),
        ("python", {"code": "\0"}),
        ("python", {"code": "x", "cwd": "."}),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    files: Files, tool: str, args: dict[str, object]
) -> None:
    with pytest.raises(ToolFailure) as caught:
        argv(tool, files, **args)
    assert caught.value.code == "invalid_request"


def test_every_tool_is_of_one_kind_and_others_are_unknown() -> None:
    for name in NAMES:
        tool = load(name)
        assert tool.name == name
        assert (tool.program is None) == callable(getattr(tool, "run", None))
    with pytest.raises(KeyError):
        load("rm")


def test_importing_the_tools_imports_nothing_slow() -> None:
    code = """
import sys
import mas_sandbox.guest.files, mas_sandbox.guest.tools
slow = {"typing", "dataclasses", "pathlib", "subprocess", "asyncio", "inspect", "ast", "ctypes",
        "contextlib", "fnmatch", "mas_sandbox.guest.tools.search"}
print(sorted(slow & sys.modules.keys()))
"""
    source = str(Path(sys.modules["mas_sandbox"].__file__ or "").parent.parent)
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {source!r})"]
    command[-1] += code
    assert subprocess.check_output(command, text=True) == "[]\n"
