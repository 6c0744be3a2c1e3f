"""Errors of building an image, worded for the person who asked for it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Protocol

from mas_sandbox.wire.errors import ErrorCode, SandboxError

SETUP = "scripts/setup --microvm"
_MAX_SAID = 2000


def bad_input(message: str) -> SandboxError:
    """What was given cannot be used."""
    return SandboxError(ErrorCode.INVALID_REQUEST, message)


def step_failed(step: str, why: str) -> SandboxError:
    """A step of the build failed for a reason of this host's."""
    return SandboxError(ErrorCode.INTERNAL, f"{step} failed: {why}")


def require(program: str, package: str) -> str:
    """The path of a program. Raises SandboxError naming the package that has it."""
    # Where mke2fs and debugfs are is not on an unprivileged user's path.
    path = shutil.which(program) or shutil.which(program, path="/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        raise SandboxError(
            ErrorCode.INVALID_REQUEST,
            f"building an image needs the program {program}; `{SETUP}` installs it, or "
            f"your system's package {package}",
        )
    return path


def run(
    step: str,
    argv: list[str],
    *,
    stdin: bytes = b"",
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Raises SandboxError with the step, the program's exit status and its words."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False, env=env, cwd=cwd)
    except OSError as error:
        raise step_failed(step, f"{argv[0]} cannot be run: {error}") from error
    if done.returncode != 0:
        raise step_failed(step, said(argv, done.returncode, done.stderr or done.stdout))
    return done


def said(argv: list[str], status: int, output: bytes) -> str:
    """A program's exit status and the end of what it said."""
    words = output.decode("utf-8", "replace").strip()[-_MAX_SAID:]
    return f"`{Path(argv[0]).name}` ended with status {status}: {words or 'it said nothing'}"


class Progress(Protocol):
    """Told what is being done; the same words again mean that it goes on."""

    def __call__(self, doing: str) -> None: ...
