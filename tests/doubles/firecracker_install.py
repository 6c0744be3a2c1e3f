"""Puts the Firecracker double and its jailer into a directory, as a release has them."""

import sys
from pathlib import Path

_PROGRAM = """#!{python}
import sys
sys.path.insert(0, {doubles!r})
from firecracker_double import {name}_main
{name}_main(sys.argv[1:], {misbehave!r})
"""


def install_firecracker(directory: Path, misbehave: str = "") -> Path:
    """The path of a `firecracker` that runs with this Python; `jailer` is beside it.

    `misbehave`: which promise it is to break, see `firecracker_double`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name in ("firecracker", "jailer"):
        program = directory / name
        program.write_text(
            _PROGRAM.format(
                python=sys.executable,
                doubles=str(Path(__file__).parent),
                name=name,
                misbehave=misbehave,
            )
        )
        program.chmod(0o755)
    return directory / "firecracker"
