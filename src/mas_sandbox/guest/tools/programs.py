"""bash and python: the call's process becomes the program."""

from __future__ import annotations

import os
import sys

from . import ToolFailure
from .arguments import only, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

_MAX_ARGUMENT = 100 * 1024
"""Bytes of one argument; the kernel takes 128 KiB (MAX_ARG_STRLEN, execve(2))."""

_BASH = ["/bin/bash", "--noprofile", "--norc"]
_SH = ["/bin/sh"]


def bash(args: dict[str, Any], files: Files) -> tuple[list[str], list[int]]:
    """A long command is read from a descriptor, which needs /proc inside the sandbox."""
    only(args, "command", "cwd")
    command = _program_text(args, "command")
    if "cwd" in args:
        _enter(files, text(args, "cwd"))
    shell = _BASH if os.access(_BASH[0], os.X_OK) else _SH
    if len(command) <= _MAX_ARGUMENT:
        return [*shell, "-c", command.decode()], []
    script = _in_memory(command)
    return [*shell, f"/proc/self/fd/{script}"], [script]


def python(args: dict[str, Any], files: Files) -> tuple[list[str], list[int]]:
    """The interpreter that runs the toolrunner, with its site-packages, not the user's."""
    only(args, "code")
    code = _program_text(args, "code")
    if not sys.executable:
        raise ToolFailure("this sandbox's Python does not know its own path; use bash")
    interpreter = [sys.executable, "-s", "-c"]
    if len(code) <= _MAX_ARGUMENT:
        return [*interpreter, code.decode()], []
    script = _in_memory(code)
    # As -c does: nothing but the code in __main__, and modules found in the directory.
    read = f'__import__("os").read({script}, {len(code)})'
    loader = f'exec(compile({read}, "<string>", "exec"))'
    return [*interpreter, loader], [script]


def _program_text(args: dict[str, Any], name: str) -> bytes:
    value = text(args, name)
    if "\0" in value:
        raise ToolFailure(f"{name} holds a NUL character", "invalid_request")
    return value.encode()


def _enter(files: Files, path: str) -> None:
    directory = files.open_directory(path)
    try:
        os.fchdir(directory)
    finally:
        os.close(directory)


def _in_memory(data: bytes) -> int:
    """A descriptor to read `data` from; it is nowhere in the file system."""
    descriptor = os.memfd_create("command")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
