"""Run programs and tools behind walls from Python.

    from mas_sandbox.sdk import Sandbox

    with Sandbox.create() as sb:
        print(sb.run("echo hello").stdout)

Names are imported when they are first used: a `LocalExecutor` never pays for the
HTTP stack.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mas_sandbox.api.code import (
        CodeEnded,
        CodeError,
        CodeOutput,
        CodeResult,
        CodeStarted,
        ContextInfo,
    )
    from mas_sandbox.api.live import (
        Entry,
        Exited,
        FileChange,
        Gap,
        Output,
        Overflow,
        ProcessInfo,
        Started,
        Unpacked,
    )
    from mas_sandbox.api.ports import ListeningPort, SharedPort
    from mas_sandbox.api.sandboxes import SandboxInfo

    from .asked.code import ContextOptions
    from .asked.lives import SandboxOptions
    from .asked.processes import CommandOptions
    from .async_attachment import AsyncAttachment
    from .async_client import AsyncClient
    from .async_code import AsyncCode, AsyncCodeContext
    from .async_files import AsyncFiles
    from .async_local import AsyncLocalExecutor
    from .async_ports import AsyncPorts
    from .async_processes import AsyncProcess, AsyncProcesses
    from .async_sandbox import AsyncSandbox
    from .async_stream import AsyncStream
    from .async_tunnel import AsyncTunnel
    from .attachment import Attachment
    from .calls import CallOptions
    from .client import Client
    from .code import Code, CodeContext
    from .environment import async_executor_from_env, executor_from_env
    from .errors import (
        ApprovalRequired,
        BadReply,
        CallError,
        CallTimeout,
        CodeFailed,
        CommandFailed,
        DaemonLost,
        DaemonUnavailable,
        DirectoryNotEmpty,
        FileError,
        FileExists,
        FileForbidden,
        FileNotFound,
        GuestLost,
        GuestProtocolError,
        IdempotencyConflict,
        InternalError,
        Interrupted,
        InvalidRequest,
        IsADirectory,
        NoSpace,
        NotADirectory,
        NotFound,
        OutOfMemory,
        OutputLimit,
        Overloaded,
        PolicyDenied,
        PolicyUnenforceable,
        ResultNotKept,
        SandboxCrash,
        SandboxError,
        TooLarge,
        ToolFailed,
        Unauthenticated,
    )
    from .execution import Execution
    from .executors import AsyncSandboxExecutor, AsyncToolExecutor, SandboxExecutor, ToolExecutor
    from .files import Files
    from .finished import Finished
    from .local import LocalExecutor
    from .ports import Ports
    from .processes import Process, Processes
    from .result import ToolResult
    from .sandbox import Sandbox
    from .stream import Stream
    from .tunnel import Tunnel

_HOME = {
    name: module
    for module, names in {
        ".api.code": "CodeEnded CodeError CodeOutput CodeResult CodeStarted ContextInfo",
        ".api.live": "Entry Exited FileChange Gap Output Overflow ProcessInfo Started Unpacked",
        ".api.ports": "ListeningPort SharedPort",
        ".api.sandboxes": "SandboxInfo",
        "asked.code": "ContextOptions",
        "asked.lives": "SandboxOptions",
        "asked.processes": "CommandOptions",
        "async_attachment": "AsyncAttachment",
        "async_client": "AsyncClient",
        "async_code": "AsyncCode AsyncCodeContext",
        "async_files": "AsyncFiles",
        "async_local": "AsyncLocalExecutor",
        "async_ports": "AsyncPorts",
        "async_processes": "AsyncProcess AsyncProcesses",
        "async_sandbox": "AsyncSandbox",
        "async_stream": "AsyncStream",
        "async_tunnel": "AsyncTunnel",
        "attachment": "Attachment",
        "calls": "CallOptions",
        "client": "Client",
        "code": "Code CodeContext",
        "environment": "async_executor_from_env executor_from_env",
        "errors": (
            "ApprovalRequired BadReply CallError CallTimeout CodeFailed CommandFailed "
            "DaemonLost DaemonUnavailable DirectoryNotEmpty FileError FileExists "
            "FileForbidden FileNotFound GuestLost GuestProtocolError IdempotencyConflict "
            "InternalError Interrupted InvalidRequest IsADirectory NoSpace NotADirectory NotFound "
            "OutOfMemory OutputLimit Overloaded PolicyDenied PolicyUnenforceable ResultNotKept "
            "SandboxCrash SandboxError TooLarge ToolFailed Unauthenticated"
        ),
        "execution": "Execution",
        "executors": "AsyncSandboxExecutor AsyncToolExecutor SandboxExecutor ToolExecutor",
        "files": "Files",
        "finished": "Finished",
        "local": "LocalExecutor",
        "ports": "Ports",
        "processes": "Process Processes",
        "result": "ToolResult",
        "sandbox": "Sandbox",
        "stream": "Stream",
        "tunnel": "Tunnel",
    }.items()
    for name in names.split()
}

__all__ = [
    "ApprovalRequired",
    "AsyncAttachment",
    "AsyncClient",
    "AsyncCode",
    "AsyncCodeContext",
    "AsyncFiles",
    "AsyncLocalExecutor",
    "AsyncPorts",
    "AsyncProcess",
    "AsyncProcesses",
    "AsyncSandbox",
    "AsyncSandboxExecutor",
    "AsyncStream",
    "AsyncToolExecutor",
    "AsyncTunnel",
    "Attachment",
    "BadReply",
    "CallError",
    "CallOptions",
    "CallTimeout",
    "Client",
    "Code",
    "CodeContext",
    "CodeEnded",
    "CodeError",
    "CodeFailed",
    "CodeOutput",
    "CodeResult",
    "CodeStarted",
    "CommandFailed",
    "CommandOptions",
    "ContextInfo",
    "ContextOptions",
    "DaemonLost",
    "DaemonUnavailable",
    "DirectoryNotEmpty",
    "Entry",
    "Execution",
    "Exited",
    "FileChange",
    "FileError",
    "FileExists",
    "FileForbidden",
    "FileNotFound",
    "Files",
    "Finished",
    "Gap",
    "GuestLost",
    "GuestProtocolError",
    "IdempotencyConflict",
    "InternalError",
    "Interrupted",
    "InvalidRequest",
    "IsADirectory",
    "ListeningPort",
    "LocalExecutor",
    "NoSpace",
    "NotADirectory",
    "NotFound",
    "OutOfMemory",
    "Output",
    "OutputLimit",
    "Overflow",
    "Overloaded",
    "PolicyDenied",
    "PolicyUnenforceable",
    "Ports",
    "Process",
    "ProcessInfo",
    "Processes",
    "ResultNotKept",
    "Sandbox",
    "SandboxCrash",
    "SandboxError",
    "SandboxExecutor",
    "SandboxInfo",
    "SandboxOptions",
    "SharedPort",
    "Started",
    "Stream",
    "TooLarge",
    "ToolExecutor",
    "ToolFailed",
    "ToolResult",
    "Tunnel",
    "Unauthenticated",
    "Unpacked",
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
