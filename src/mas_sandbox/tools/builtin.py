"""The tools every sandbox has, as a language model is shown them.

The behaviour is in the guest, under the same names, and checks its arguments again:
the bounds here are the guest's own.
"""

from __future__ import annotations

from typing import Any

from .manifest import Capability, ToolSpec

_NETWORK = frozenset({Capability.NETWORK})
_FILE = frozenset({Capability.FILE})
_PROGRAM = frozenset({Capability.EXEC, Capability.FILE})


def _tool(
    name: str,
    description: str,
    properties: dict[str, dict[str, Any]],
    required: list[str],
    examples: list[dict[str, Any]],
    capabilities: frozenset[Capability],
) -> ToolSpec:
    schema = {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
        "examples": examples,
    }
    return ToolSpec(name, description, schema, capabilities)


def _text(description: str, **keywords: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **keywords}


def _flag(description: str) -> dict[str, Any]:
    return {"type": "boolean", "description": description, "default": False}


def _integer(description: str, low: int, high: int, **keywords: Any) -> dict[str, Any]:
    bounds = {"minimum": low, "maximum": high}
    return {"type": "integer", "description": description, **bounds, **keywords}


def _path(description: str, **keywords: Any) -> dict[str, Any]:
    where = "Relative to /workspace, or absolute beneath a granted path."
    return _text(f"{description} {where}", minLength=1, maxLength=4095, **keywords)


def _url(description: str) -> dict[str, Any]:
    form = "It begins with http:// or https://, without user and password."
    return _text(f"{description} {form}", minLength=1, maxLength=8192)


_LINE_MAX = 2**53 - 1

BUILTIN: tuple[ToolSpec, ...] = (
    _tool(
        "calculator",
        "Compute an arithmetic expression: + - * / // % **, parentheses, pi, e, sqrt, abs, "
        "round, min, max, floor, ceil, log, log10, exp, sin, cos, tan, factorial. "
        "Returns the number; integers are exact.",
        {
            "expression": _text(
                "The expression, with ** for powers and radians for angles.",
                minLength=1,
                maxLength=1000,
            )
        },
        ["expression"],
        [{"expression": "15 * 8 + 7"}, {"expression": "sqrt(2) ** 2"}],
        frozenset(),
    ),
    _tool(
        "file_system",
        "Read, write, list or delete a file or directory. read returns the content; write "
        "returns path and bytes_written; list returns entries with name, type, size and mtime; "
        "delete returns the deleted path.",
        {
            "action": _text("What to do.", enum=["read", "write", "list", "delete"]),
            "path": _path("The file or directory."),
            "content": _text("What to write; needed for write."),
            "append": _flag("For write: add to the end instead of replacing the file."),
            "recursive": _flag(
                "For list: also what lies in subdirectories. For delete: a directory with all "
                "it holds."
            ),
        },
        ["action", "path"],
        [
            {"action": "write", "path": "notes.txt", "content": "one line\n", "append": True},
            {"action": "list", "path": ".", "recursive": True},
        ],
        _FILE,
    ),
    _tool(
        "read_file",
        "Read a text file, or a range of its lines. Returns content, start_line, end_line, "
        "total_lines and truncated: at most 256 KiB come back at once, so read on from "
        "end_line + 1. A file over 10 MiB needs start_line and end_line.",
        {
            "path": _path("The file."),
            "start_line": _integer("First line, from 1.", 1, _LINE_MAX, default=1),
            "end_line": _integer("Last line, included. To the end unless given.", 1, _LINE_MAX),
        },
        ["path"],
        [{"path": "src/app.py"}, {"path": "log.txt", "start_line": 100, "end_line": 150}],
        _FILE,
    ),
    _tool(
        "write_file",
        "Create a text file, or replace its whole content at once. Returns path and "
        "bytes_written. To change a part of a file, use edit_file.",
        {
            "path": _path("The file."),
            "content": _text("The whole new content."),
            "create_dirs": _flag("Make directories that are missing.") | {"default": True},
        },
        ["path", "content"],
        [{"path": "src/app.py", "content": "print('hello')\n"}],
        _FILE,
    ),
    _tool(
        "edit_file",
        "Replace a piece of text in a file. old_text must occur exactly once, character for "
        "character, unless replace_all is set. Returns path and replacements, their number.",
        {
            "path": _path("The file, at most 10 MiB."),
            "old_text": _text(
                "The text to replace, with enough lines around it to be unique.", minLength=1
            ),
            "new_text": _text("What to put in its place; may be empty."),
            "replace_all": _flag("Replace every occurrence."),
        },
        ["path", "old_text", "new_text"],
        [{"path": "src/app.py", "old_text": "hello", "new_text": "goodbye"}],
        _FILE,
    ),
    _tool(
        "list_dir",
        "List a directory. Returns entries, each with name, type (file, directory, symlink or "
        "other), size in bytes and mtime in Unix seconds; at most 1,000, then truncated is true.",
        {
            "path": _path("The directory.", default="."),
            "depth": _integer(
                "How many levels to list: 1 is the directory itself.", 1, 20, default=1
            ),
        },
        [],
        [{}, {"path": "src", "depth": 3}],
        _FILE,
    ),
    _tool(
        "glob",
        "Find files and directories by name. Returns paths, sorted, as the other tools take "
        "them; at most 1,000, then truncated is true. Does not follow symbolic links.",
        {
            "pattern": _text(
                "Such as **/*.py: * and ? match within a name, ** any number of directories, "
                "{a,b} either. None of them matches a leading dot: write it.",
                minLength=1,
                maxLength=1000,
            ),
            "path": _path("The directory to begin in.", default="."),
        },
        ["pattern"],
        [{"pattern": "**/*.py"}, {"pattern": "*.{yml,yaml}", "path": ".github/workflows"}],
        _FILE,
    ),
    _tool(
        "grep",
        "Search text files for a regular expression, line by line. Returns matches, each with "
        "path, line and text (and before and after where context is asked for), files_searched, "
        "files_skipped (binary, unreadable or over 10 MiB) and truncated.",
        {
            "pattern": _text(
                "A regular expression, as Python's re has it.", minLength=1, maxLength=1000
            ),
            "path": _path("The file, or the directory to search beneath.", default="."),
            "glob": _text(
                "Only files whose name matches, such as *.py; with a slash, whose path does. "
                "Names with a leading dot need one here.",
                minLength=1,
                maxLength=997,
                default="*",
            ),
            "ignore_case": _flag("Match upper and lower case alike."),
            "fixed": _flag("The pattern is plain text."),
            "context": _integer("Lines to show before and after.", 0, 10, default=0),
            "max_matches": _integer("Stop after this many.", 1, 1000, default=100),
        },
        ["pattern"],
        [{"pattern": r"def \w+_test\("}, {"pattern": "print(", "fixed": True, "glob": "*.py"}],
        _FILE,
    ),
    _tool(
        "bash",
        "Run a shell command in the sandbox. Returns its standard output, with stderr and "
        "exit_code beside it. Each call is a new shell: nothing but files is kept.",
        {
            "command": _text("The command, or a whole script.", minLength=1),
            "cwd": _path("The directory to run it in."),
        },
        ["command"],
        [{"command": "ls -la | head"}, {"command": "python3 -m pytest -q", "cwd": "project"}],
        _PROGRAM,
    ),
    _tool(
        "python",
        "Run a Python program in the sandbox. Returns what it prints, with stderr and exit_code "
        "beside it. Each call is a new interpreter: nothing but files is kept.",
        {"code": _text("The program; print what you want to see.", minLength=1)},
        ["code"],
        [{"code": "print(sum(range(10)))"}],
        _PROGRAM,
    ),
    _tool(
        "http_request",
        "Send an HTTP request to a host that the policy allows. Returns status, reason, headers, "
        "body (Base64 where encoding says base64, at most 256 KiB, then truncated is true) and "
        "the url that answered after up to 5 redirects. Any status is a result.",
        {
            "method": _text(
                "The method.",
                enum=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
                default="GET",
            ),
            "url": _url("The URL."),
            "headers": {
                "type": "object",
                "description": "Header names and values. Host and Content-Length are set for you.",
                "additionalProperties": {"type": "string", "maxLength": 8192},
                "maxProperties": 100,
                "default": {},
            },
            "body": _text("The body, as text; name its kind in a Content-Type header."),
            "timeout": {
                "type": "number",
                "description": "Seconds for everything together.",
                "exclusiveMinimum": 0,
                "maximum": 600,
                "default": 30,
            },
        },
        ["url"],
        [
            {"url": "https://api.example.org/items?limit=10"},
            {
                "method": "POST",
                "url": "https://api.example.org/items",
                "headers": {"Content-Type": "application/json"},
                "body": '{"name": "hammer"}',
            },
        ],
        _NETWORK,
    ),
    _tool(
        "fetch",
        "Read a web page or a text file of the web. Returns content (at most 256 KiB, then "
        "truncated is true), title, content_type and the url that answered. Pages are turned "
        "into Markdown or text; no scripts are run.",
        {
            "url": _url("The page."),
            "format": _text(
                "What to make of an HTML page.",
                enum=["text", "markdown", "html"],
                default="markdown",
            ),
        },
        ["url"],
        [{"url": "https://example.org/docs/"}, {"url": "https://example.org/", "format": "text"}],
        _NETWORK,
    ),
    _tool(
        "web_search",
        "Search the web, if the operator has set up a search server. Returns a list of results, "
        "each with title, url and snippet; read a page with fetch.",
        {
            "query": _text("What to look for.", minLength=1, maxLength=1000),
            "max_results": _integer("How many results at most.", 1, 20, default=5),
        },
        ["query"],
        [{"query": "python asyncio taskgroup"}],
        _NETWORK,
    ),
)
