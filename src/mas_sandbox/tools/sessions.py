"""What a person or a program may do with a named sandbox besides calling tools in it.

Policies decide on these as on tools, by these names and by what they are asked to do; nobody
can call one as a tool.
"""

from __future__ import annotations

from .manifest import Capability, ToolSpec

_ANYTHING = {"type": "object"}

SESSIONS = {
    spec.name: spec
    for spec in (
        ToolSpec(
            "process",
            "Start a program that outlives the request: argv, cwd, env, pty.",
            _ANYTHING,
            frozenset({Capability.EXEC, Capability.FILE}),
        ),
        ToolSpec(
            "files",
            "Read, write, list, watch or archive files: operation, path.",
            _ANYTHING,
            frozenset({Capability.FILE}),
        ),
        ToolSpec(
            "code",
            "Run code in a context that keeps its variables: operation, language, code.",
            _ANYTHING,
            frozenset({Capability.EXEC, Capability.FILE}),
        ),
        ToolSpec(
            "ports",
            "Reach a server inside the sandbox: port.",
            _ANYTHING,
            frozenset({Capability.EXEC}),
        ),
    )
}
