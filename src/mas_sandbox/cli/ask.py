"""What the daemon's program prints about this host."""

from __future__ import annotations

import subprocess

from mas_sandbox.sdk.daemon_command import daemon_command
from mas_sandbox.sdk.errors import DaemonUnavailable


def ask_daemon(flag: str, timeout_s: float = 60.0) -> bytes:
    """What the daemon's program prints for a flag. Raises DaemonUnavailable."""
    command = [*daemon_command(), flag]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise DaemonUnavailable(
            f"`{' '.join(command)}` cannot be run ({exc}); set MAS_SANDBOXD to mas-sandboxd"
        ) from exc
    if answer.returncode != 0:
        said = answer.stderr.decode("utf-8", "backslashreplace").strip()
        raise DaemonUnavailable(f"`{' '.join(command)}` failed: {said or answer.returncode}")
    return answer.stdout
