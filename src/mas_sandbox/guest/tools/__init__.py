"""The built-in tools by name. Importing this costs next to nothing; `load` imports the rest."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from mas_sandbox.guest.files import Files

    Function = Callable[[dict[str, Any], Files], Any]
    Program = Callable[[dict[str, Any], Files], tuple[list[str], list[int]]]

# Tool -> the module beside this file that has a function of the tool's name.
_FUNCTIONS = {
    "calculator": "calculator",
    "edit_file": "writing",
    "fetch": "fetch",
    "file_system": "file_system",
    "glob": "search",
    "grep": "search",
    "http_request": "http_request",
    "list_dir": "listing",
    "read_file": "reading",
    "web_search": "web_search",
    "write_file": "writing",
}
_NETWORKED = frozenset({"fetch", "http_request", "web_search"})
_PROGRAMS = {"bash": "programs", "python": "programs"}
# What the host itself calls, by names that no caller of `execute` can give: the module
# beside this file, and its function.
INSIDE = {
    "sandbox.connect": "inside.connect.connect",
    "sandbox.list": "inside.entries.list_entries",
    "sandbox.mkdir": "inside.entries.mkdir",
    "sandbox.move": "inside.entries.move",
    "sandbox.pack": "inside.pack.pack",
    "sandbox.ports": "inside.ports.ports",
    "sandbox.read": "inside.transfer.read",
    "sandbox.remove": "inside.entries.remove",
    "sandbox.stat": "inside.entries.stat_entry",
    "sandbox.unpack": "inside.unpack.unpack",
    "sandbox.watch": "inside.watch.watch",
    "sandbox.write": "inside.transfer.write",
}
_READING = frozenset({"sandbox.connect", "sandbox.unpack", "sandbox.write"})

NAMES: list[str] = sorted(_FUNCTIONS | _PROGRAMS)
"""Of the manifest: without those of the host's own calls."""


class ToolFailure(Exception):
    """A tool's own report of a failure.

    `code` is the value of a wire ErrorCode out of `messages.GUEST_CODES`:
    `invalid_request` for arguments that cannot be served, `tool_failed` for work
    that did not succeed. `message` says what to do next and names paths as the
    caller spelt them; `reason` is one of `messages.FILE_REASONS`.
    """

    def __init__(self, message: str, code: str = "tool_failed", reason: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason


class Tool:
    """A function tool has `run`, (arguments, files) -> JSON value, and no program.
    `networked`: it looks for its way out in the environment; `reads_input`: what the host
    writes to the call is its standard input.

    Otherwise `program` is (arguments, files) -> (argv, descriptors to keep open across
    exec). Both are called in the call's own process, whose directory `program` may
    change, and both raise ToolFailure.
    """

    __slots__ = ("name", "networked", "program", "reads_input", "run")

    def __init__(
        self, name: str, *, run: Function | None = None, program: Program | None = None
    ) -> None:
        self.name = name
        self.networked = name in _NETWORKED
        self.reads_input = name in _READING
        self.program = program
        if run is not None:
            self.run = run


def load(name: str) -> Tool:
    """Import what `name` needs, once per process: before the fork, so that no call pays.

    Raises KeyError for a name that is not built in.
    """
    if name in _PROGRAMS:
        return Tool(name, program=_implementation(_PROGRAMS[name], name))
    if name in INSIDE:
        module, _, function = INSIDE[name].rpartition(".")
        return Tool(name, run=_implementation(module, function))
    return Tool(name, run=_implementation(_FUNCTIONS[name], name))


def _implementation(module: str, name: str) -> Any:
    return getattr(__import__(f"{__name__}.{module}", fromlist=[name]), name)
