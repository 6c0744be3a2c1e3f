"""What a process of a sandbox is started with: the JSON message inside a START frame."""

from __future__ import annotations

import struct

from . import strict_json
from .frames import MAX_PAYLOAD, ProtocolError
from .isolation import WORKSPACE
from .messages import grants, integer, text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_ARGUMENTS = 4096
SHELL = ""
"""As argv[0]: bash where there is one, else sh."""
STARTED = struct.Struct("!I")
"""The payload of STARTED: the process's id."""
SIZE = struct.Struct("!HH")
"""The payload of RESIZE: rows, columns."""


class Process:
    """One process, which outlives the connection that asked for it, never the sandbox.

    `argv`: program, looked up in PATH, or `SHELL`, and its arguments; `cwd` beneath
    `/workspace` or a granted path; `env`, `paths`, `nofile`: as of a `Call`; `user`: empty
    for the one that calls run as, else its name; `pty`: rows and columns of a terminal for
    its standard streams, whose output is all STDOUT, None for pipes; `timeout_ms`: wall time,
    0 for none.
    """

    __slots__ = ("argv", "cwd", "env", "nofile", "paths", "pty", "timeout_ms", "user")

    def __init__(
        self,
        argv: list[str],
        *,
        cwd: str = WORKSPACE,
        env: dict[str, str] | None = None,
        nofile: int = 1024,
        paths: list[tuple[str, str]] | None = None,
        pty: tuple[int, int] | None = None,
        timeout_ms: int = 0,
        user: str = "",
    ) -> None:
        self.argv = argv
        self.cwd = cwd
        self.env = env or {}
        self.nofile = nofile
        self.paths = [(WORKSPACE, "rw")] if paths is None else paths
        self.pty = pty
        self.timeout_ms = timeout_ms
        self.user = user

    def encode(self) -> bytes:
        """Raises ValueError when the message does not fit one frame."""
        encoded = strict_json.dumps({name: getattr(self, name) for name in self.__slots__})
        if len(encoded) > MAX_PAYLOAD:
            raise ValueError(f"the process is {len(encoded)} bytes of JSON; {MAX_PAYLOAD} at most")
        return encoded

    @classmethod
    def parse(cls, payload: bytes) -> Process:
        try:
            fields = strict_json.loads(payload)
        except ValueError as error:
            raise ProtocolError(f"START is not JSON: {error}") from error
        if not isinstance(fields, dict) or fields.keys() != set(cls.__slots__):
            raise ProtocolError(f"START does not have exactly {', '.join(cls.__slots__)}")
        env = fields["env"]
        if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
            raise ProtocolError("START env is not name -> value")
        return cls(
            _argv(fields["argv"]),
            cwd=text(fields, "cwd"),
            env=env,
            nofile=integer(fields, "nofile"),
            paths=grants(fields["paths"]),
            pty=_size(fields["pty"]),
            timeout_ms=integer(fields, "timeout_ms"),
            user=text(fields, "user"),
        )


def _argv(value: Any) -> list[str]:
    if (
        not isinstance(value, list)
        or not 0 < len(value) <= MAX_ARGUMENTS
        or not all(type(word) is str and "\0" not in word for word in value)
    ):
        raise ProtocolError(f"argv is not 1 to {MAX_ARGUMENTS} strings without NUL")
    return value


def _size(value: Any) -> tuple[int, int] | None:
    match value:
        case None:
            return None
        case [int(rows), int(columns)] if 0 < rows <= 0xFFFF and 0 < columns <= 0xFFFF:
            return rows, columns
        case _:
            raise ProtocolError("pty is not [rows, columns]")
