"""The kernel's source, as a Python inside a sandbox is told to run it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

_ROOM = Path(__file__).resolve().parents[2] / "kernel"
_PACKAGE = "mas_sandbox_kernel"
_READ = "import os; asked = os.fdopen(os.dup(0), 'rb'); exec(asked.read(int(asked.readline())))"
ARGV = ["python3", "-P", "-c", _READ]
"""Its standard input: a program's length and a line end, the program, and then requests. `-P`:
what lies in the working directory must not be taken for the standard library before code
runs (afterwards it is looked up there, as at Python's own prompt)."""


def program(mark: str, kernel: str) -> bytes:
    """What to write first. `mark`, `kernel`: as of `kernel.serve.serve`."""
    settings = {"mark": mark, "kernel": kernel}
    boot, sources = _sources()
    body = f"{boot}\nboot({sources!r}, {settings!r}, asked)\n".encode()
    return b"%d\n%b" % (len(body), body)


@cache
def _sources() -> tuple[str, dict[str, str]]:
    """The first module, and the others by name."""
    read = {file.stem: file.read_text("utf-8") for file in _ROOM.glob("*.py")}
    boot = read.pop("boot")
    del read["__init__"]
    return boot, {_PACKAGE: ""} | {f"{_PACKAGE}.{name}": text for name, text in read.items()}
