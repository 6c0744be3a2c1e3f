"""Where the daemon is that `LocalExecutor` starts."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path


def daemon_command() -> list[str]:
    """The argv of `mas-sandboxd`, without flags.

    MAS_SANDBOXD where it is set (a path, or a command line with flags), else the one
    installed beside this Python, so that both are of one version, else the first on
    PATH, else this package's own.
    """
    if chosen := os.environ.get("MAS_SANDBOXD"):
        return shlex.split(chosen)
    beside = Path(sys.executable).with_name("mas-sandboxd")
    if os.access(beside, os.X_OK):
        return [str(beside)]
    if on_path := shutil.which("mas-sandboxd"):
        return [on_path]
    return [sys.executable, "-m", "mas_sandbox.server.main"]


def daemon_flags(runtime: str | None, policy_file: str | os.PathLike[str] | None) -> list[str]:
    """The flags for a runtime and a policy file, where they are given."""
    flags = ["-runtime", runtime] if runtime else []
    return [*flags, "-policy", os.fspath(policy_file)] if policy_file else flags
