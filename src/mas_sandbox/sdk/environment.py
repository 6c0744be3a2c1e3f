"""The executor that the environment asks for, so that one agent runs anywhere unchanged.

| variable | meaning |
|---|---|
| `MAS_SANDBOX_MODE` | `local` or `http`; unset: `http` where a URL is set, else `local` |
| `MAS_SANDBOX_URL` | http: where the daemon is; `http://127.0.0.1:8080` when unset |
| `MAS_SANDBOX_TOKEN` | http: the caller's token |
| `MAS_SANDBOXD` | local: the daemon to start, a path or a command line with flags |
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal

from .errors import InvalidRequest

if TYPE_CHECKING:
    from .executors import AsyncToolExecutor, ToolExecutor


def executor_from_env() -> ToolExecutor:
    """The executor of MAS_SANDBOX_MODE; raises InvalidRequest for an unknown mode."""
    if mode_from_env() == "http":
        from .executors import SandboxExecutor

        return SandboxExecutor()
    from .local import LocalExecutor

    return LocalExecutor()


def async_executor_from_env() -> AsyncToolExecutor:
    """`executor_from_env` for asyncio."""
    if mode_from_env() == "http":
        from .executors import AsyncSandboxExecutor

        return AsyncSandboxExecutor()
    from .async_local import AsyncLocalExecutor

    return AsyncLocalExecutor()


def mode_from_env() -> Literal["local", "http"]:
    """Which kind of executor the environment asks for."""
    match os.environ.get("MAS_SANDBOX_MODE", ""):
        case "":
            return "http" if os.environ.get("MAS_SANDBOX_URL") else "local"
        case "local":
            return "local"
        case "http":
            return "http"
        case other:
            raise InvalidRequest(f"MAS_SANDBOX_MODE is {other!r}; set it to `local` or `http`")
