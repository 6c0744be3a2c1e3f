"""The daemon, sandbox and executor that a command's options ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.sdk.environment import executor_from_env
from mas_sandbox.sdk.errors import InvalidRequest

from .complete import process_names, sandbox_ids

if TYPE_CHECKING:
    from mas_sandbox.sdk.executors import ToolExecutor

Url = Annotated[
    str | None,
    Parameter(help="Of a running daemon; the token is read from MAS_SANDBOX_TOKEN."),
]
DaemonUrl = Annotated[
    str | None,
    Parameter(help="Of the daemon: MAS_SANDBOX_URL, or port 8080 of this machine, where left out."),
]
Token = Annotated[
    str | None,
    Parameter(
        help="For the daemon. The variable MAS_SANDBOX_TOKEN is better: whoever may list "
        "processes sees this one."
    ),
]
SandboxId = Annotated[
    str, Parameter(help="Its id; `mas-sandbox ls` lists them.", completer=sandbox_ids)
]
ProcessName = Annotated[
    str, Parameter(help="Its pid or tag; `mas-sandbox ps` lists them.", completer=process_names)
]
Json = Annotated[bool, Parameter(name="--json", help="Print JSON for a program.")]


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
