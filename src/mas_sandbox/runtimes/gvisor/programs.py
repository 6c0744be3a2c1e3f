"""The programs that a gVisor sandbox is made with."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from ..base import Probe
from ..jail.mounts import find_mechanism
from ..jail.probe import find_tools
from .layout import KVM, OPTIONAL_FLAGS
from .version import release_date

RUNSC_DIRECTORIES = ("/usr/bin", "/usr/local/bin")
"""Beneath /usr, which is all of the host that runsc itself sees."""
_INSTALL = "install a release from gvisor.dev as /usr/local/bin/runsc, or apt-get install runsc"


@dataclass(frozen=True, slots=True)
class Tools:
    """`release`: runsc's date; `flags`: those of `OPTIONAL_FLAGS` that it knows;
    `host_paths`: by what means host directories get in, empty where by none.

    What was found out by trying: `platform`; `returns_errors`, whether its system call
    filter answers with a rule's own error; `mends_statx`, whether programs need
    `statx.library`.
    """

    bwrap: str
    runsc: str
    python: str
    release: int
    flags: tuple[str, ...]
    host_paths: str = ""
    platform: str = ""
    returns_errors: bool = False
    mends_statx: bool = False

    @property
    def supplementary(self) -> tuple[int, ...]:
        """The groups that runsc needs: the one that may use /dev/kvm."""
        return (Path(KVM).stat().st_gid,) if self.platform == "kvm" else ()


def find_programs() -> Tools | Probe:
    """The programs, or an unavailable Probe that says which is missing and what installs it."""
    found = find_tools()
    if isinstance(found, Probe):
        return found
    runsc = shutil.which("runsc", path=":".join(RUNSC_DIRECTORIES))
    if runsc is None:
        return Probe(False, reason="runsc is not installed beneath /usr", mend=_INSTALL)
    known = _said([runsc, "flags"])
    flags = tuple(flag for flag in OPTIONAL_FLAGS if f"-{flag.partition('=')[0]} " in known)
    release = release_date(_said([runsc, "--version"]))
    # As one and the same user, gVisor could not tell a directory's owner from itself.
    means = find_mechanism("") if os.geteuid() == 0 else ""
    return Tools(found.bwrap, runsc, found.python, release, flags, means)


def _said(argv: list[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, timeout=10, env={}, check=False)
    return result.stdout + result.stderr
