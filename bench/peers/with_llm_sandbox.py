"""llm-sandbox with its bubblewrap backend: a bubblewrap for each command, and a workspace
that stays for a session. A virtual environment for each session (10 s) is not asked for."""

import shlex

from llm_sandbox import SandboxBackend, SandboxSession
from loop import serve


def _session():
    return SandboxSession(
        backend=SandboxBackend.BUBBLEWRAP, lang="python", skip_environment_setup=True
    )


def _fresh(argv: list[str]) -> str:
    with _session() as session:
        return session.execute_command(shlex.join(argv)).stdout


with _session() as kept:
    serve(_fresh, lambda argv: kept.execute_command(shlex.join(argv)).stdout)
