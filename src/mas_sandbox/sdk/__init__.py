"""Run tools behind walls from Python.

    from mas_sandbox.sdk import Client

    with Client("http://127.0.0.1:8080") as client:
        result = client.execute("calculator", {"expression": "15 * 8 + 7"})
        print(result.raise_for_error().result)

Names are imported when they are first used: a `LocalExecutor` never pays for the
HTTP stack.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .async_client import AsyncClient, AsyncSandbox
    from .async_local import AsyncLocalExecutor
    from .calls import CallOptions
    from .client import Client, Sandbox
    from .environment import async_executor_from_env, executor_from_env
    from .errors import (
        ApprovalRequired,
        BadReply,
        CallError,
        CallTimeout,
        DaemonLost,
        DaemonUnavailable,
        GuestLost,
        GuestProtocolError,
        InternalError,
        Interrupted,
        InvalidRequest,
        NotFound,
        OutOfMemory,
        OutputLimit,
        Overloaded,
        PolicyDenied,
        PolicyUnenforceable,
        SandboxCrash,
        SandboxError,
        ToolFailed,
        Unauthenticated,
    )
    from .executors import (
        AsyncSandboxExecutor,
        AsyncToolExecutor,
        SandboxExecutor,
        ToolExecutor,
    )
    from .lifecycle import SandboxOptions
    from .local import LocalExecutor
    from .result import ToolResult

_HOME = {
    name: module
    for module, names in {
        "async_client": ("AsyncClient", "AsyncSandbox"),
        "async_local": ("AsyncLocalExecutor",),
        "calls": ("CallOptions",),
        "client": ("Client", "Sandbox"),
        "environment": ("async_executor_from_env", "executor_from_env"),
        "errors": (
            "ApprovalRequired",
            "BadReply",
            "CallError",
            "CallTimeout",
            "DaemonLost",
            "DaemonUnavailable",
            "GuestLost",
            "GuestProtocolError",
            "InternalError",
            "Interrupted",
            "InvalidRequest",
            "NotFound",
            "OutOfMemory",
            "OutputLimit",
            "Overloaded",
            "PolicyDenied",
            "PolicyUnenforceable",
            "SandboxCrash",
            "SandboxError",
            "ToolFailed",
            "Unauthenticated",
        ),
        "executors": (
            "AsyncSandboxExecutor",
            "AsyncToolExecutor",
            "SandboxExecutor",
            "ToolExecutor",
        ),
        "lifecycle": ("SandboxOptions",),
        "local": ("LocalExecutor",),
        "result": ("ToolResult",),
    }.items()
    for name in names
}

__all__ = [
    "ApprovalRequired",
    "AsyncClient",
    "AsyncLocalExecutor",
    "AsyncSandbox",
    "AsyncSandboxExecutor",
    "AsyncToolExecutor",
    "BadReply",
    "CallError",
    "CallOptions",
    "CallTimeout",
    "Client",
    "DaemonLost",
    "DaemonUnavailable",
    "GuestLost",
    "GuestProtocolError",
    "InternalError",
    "Interrupted",
    "InvalidRequest",
    "LocalExecutor",
    "NotFound",
    "OutOfMemory",
    "OutputLimit",
    "Overloaded",
    "PolicyDenied",
    "PolicyUnenforceable",
    "Sandbox",
    "SandboxCrash",
    "SandboxError",
    "SandboxExecutor",
    "SandboxOptions",
    "ToolExecutor",
    "ToolFailed",
    "ToolResult",
    "Unauthenticated",
    "async_executor_from_env",
    "executor_from_env",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)
