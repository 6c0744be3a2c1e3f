"""The executor that a command's options ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.sdk.environment import executor_from_env
from mas_sandbox.sdk.errors import InvalidRequest

if TYPE_CHECKING:
    from mas_sandbox.sdk.executors import ToolExecutor

Url = Annotated[
    str | None,
    Parameter(help="Of a running daemon; the token is read from MAS_SANDBOX_TOKEN."),
]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON for a program.")]


def executor(
    url: str | None, runtime: str | None = None, policy_file: Path | None = None
) -> ToolExecutor:
    """A running daemon's for `url`, one of our own for the others, else the environment's."""
    own = runtime is not None or policy_file is not None
    if url and own:
        raise InvalidRequest(
            "--runtime and --policy-file are for a daemon started for this call; "
            "leave them out, or --url"
        )
    if url:
        from mas_sandbox.sdk.client import Client
        from mas_sandbox.sdk.executors import SandboxExecutor

        return SandboxExecutor(Client(url))
    if own:
        from mas_sandbox.sdk.local import LocalExecutor

        return LocalExecutor(runtime=runtime, policy_file=policy_file)
    return executor_from_env()
