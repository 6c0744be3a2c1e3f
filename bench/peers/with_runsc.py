"""runsc itself, as its `do` command starts a sandbox: the host's files, and its platform as
ours is (ptrace where there is no /dev/kvm that works)."""

import subprocess

from loop import serve


def _fresh(argv: list[str]) -> str:
    command = ["runsc", "--network=none", "--platform=ptrace", "do", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


serve(_fresh)
