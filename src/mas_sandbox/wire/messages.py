"""The JSON messages inside HELLO, WELCOME, CALL and RESULT frames.

Each message is checked field by field on arrival, because the peer is hostile:
`parse` raises `ProtocolError` for anything unknown, missing or out of range.
"""

from __future__ import annotations

from . import strict_json
from .errors import ErrorCode
from .frames import MAX_PAYLOAD, ProtocolError
from .isolation import WORKSPACE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROTOCOL = 1
MAX_CALL_BYTES = MAX_PAYLOAD
"""A call's arguments travel in one frame."""
MAX_MESSAGE_CHARS = 8192
"""An error message from the guest is cut to this many characters."""
LIMITS = ("mem_mb", "pids", "disk_mb", "disk_files")
"""What a WELCOME can limit: RAM without swap, processes and threads, scratch space in MiB
and in files."""


class Hello:
    """The toolrunner is up. `tools`: the names it can run; `controls`: walls it put up itself."""

    __slots__ = ("controls", "pid", "protocol", "python", "tools")

    def __init__(
        self, protocol: int, pid: int, python: str, tools: list[str], controls: list[str]
    ) -> None:
        self.protocol = protocol
        self.pid = pid
        self.python = python
        self.tools = tools
        self.controls = controls

    def encode(self) -> bytes:
        return strict_json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, payload: bytes) -> Hello:
        fields = _fields(payload, cls.__slots__, "HELLO")
        if integer(fields, "protocol") != PROTOCOL:
            raise ProtocolError(f"protocol {fields['protocol']!r}; this end speaks {PROTOCOL}")
        return cls(
            protocol=PROTOCOL,
            pid=integer(fields, "pid"),
            python=text(fields, "python")[:64],
            tools=_names(fields, "tools"),
            controls=_names(fields, "controls"),
        )


class Welcome:
    """What the host tells the guest on connect, and again after a restored snapshot.

    `entropy`: 64 hex digits fed to the guest's random pool and to each call;
    `time_ns`: the host's wall clock, Unix time in nanoseconds; `hostname`: set
    where the wall lets the toolrunner set it; `extensions`: the operator's own
    tools, file name -> Python source, never imported outside a call's process;
    `limits`: out of `LIMITS`, of all calls together, 1 or more, and none where missing.
    `mounts`: (path, "ro" or "rw") of host directories; the service `share/N` serves the
    Nth. Only a toolrunner whose kernel is its own applies limits and makes mounts, before READY
    or never; elsewhere the wall did, and calls are let at them.
    """

    __slots__ = ("entropy", "extensions", "hostname", "limits", "mounts", "time_ns")

    def __init__(
        self,
        entropy: str,
        time_ns: int,
        hostname: str,
        extensions: dict[str, str],
        limits: dict[str, int] | None = None,
        mounts: list[tuple[str, str]] | None = None,
    ) -> None:
        self.entropy = entropy
        self.time_ns = time_ns
        self.hostname = hostname
        self.extensions = extensions
        self.limits = limits or {}
        self.mounts = mounts or []

    def encode(self) -> bytes:
        return strict_json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, payload: bytes) -> Welcome:
        fields = _fields(payload, cls.__slots__, "WELCOME")
        extensions = fields["extensions"]
        if not isinstance(extensions, dict) or not all(
            isinstance(source, str) for source in extensions.values()
        ):
            raise ProtocolError("WELCOME extensions are not file name -> source")
        limits = fields["limits"]
        if not isinstance(limits, dict) or not all(
            name in LIMITS and integer(limits, name) for name in limits
        ):
            raise ProtocolError(f"WELCOME limits are not numbers from 1 of {', '.join(LIMITS)}")
        return cls(
            entropy=text(fields, "entropy"),
            time_ns=integer(fields, "time_ns"),
            hostname=text(fields, "hostname"),
            extensions=extensions,
            limits=limits,
            mounts=grants(fields["mounts"]),
        )


class Call:
    """One tool call as the guest sees it.

    `timeout_ms`: wall time, 0 for none; `cpu_ms`: processor time of the whole process
    tree, 0 for no bound; `output_bytes`: stdout, stderr and value
    together; `nofile`: open files per process; `fsize_bytes`: size of any one file
    written, 0 for no bound; `env`: added to the toolrunner's own clean environment;
    `cwd`: beneath `/workspace`; `paths`: (path, "ro" or "rw") pairs, absolute, what
    the call may touch, where a path beneath `/workspace` means this sandbox's own.
    """

    __slots__ = (
        "args",
        "cpu_ms",
        "cwd",
        "env",
        "fsize_bytes",
        "nofile",
        "output_bytes",
        "paths",
        "timeout_ms",
        "tool",
    )

    def __init__(
        self,
        tool: str,
        args: dict[str, Any],
        *,
        timeout_ms: int = 0,
        cpu_ms: int = 0,
        output_bytes: int = 1024 * 1024,
        nofile: int = 1024,
        fsize_bytes: int = 0,
        env: dict[str, str] | None = None,
        cwd: str = WORKSPACE,
        paths: list[tuple[str, str]] | None = None,
    ) -> None:
        self.tool = tool
        self.args = args
        self.timeout_ms = timeout_ms
        self.cpu_ms = cpu_ms
        self.output_bytes = output_bytes
        self.nofile = nofile
        self.fsize_bytes = fsize_bytes
        self.env = env or {}
        self.cwd = cwd
        self.paths = [(WORKSPACE, "rw")] if paths is None else paths

    def encode(self) -> bytes:
        """Raises ValueError when the message does not fit one frame."""
        encoded = strict_json.dumps({name: getattr(self, name) for name in self.__slots__})
        if len(encoded) > MAX_CALL_BYTES:
            raise ValueError(f"the call is {len(encoded)} bytes of JSON; {MAX_CALL_BYTES} at most")
        return encoded

    @classmethod
    def parse(cls, payload: bytes) -> Call:
        fields = _fields(payload, cls.__slots__, "CALL")
        args, env = fields["args"], fields["env"]
        if not isinstance(args, dict):
            raise ProtocolError("CALL args are not an object")
        if not isinstance(env, dict) or not all(isinstance(text, str) for text in env.values()):
            raise ProtocolError("CALL env is not name -> value")
        return cls(
            tool=text(fields, "tool"),
            args=args,
            timeout_ms=integer(fields, "timeout_ms"),
            cpu_ms=integer(fields, "cpu_ms"),
            output_bytes=integer(fields, "output_bytes"),
            nofile=integer(fields, "nofile"),
            fsize_bytes=integer(fields, "fsize_bytes"),
            env=env,
            cwd=text(fields, "cwd"),
            paths=grants(fields["paths"]),
        )


class Result:
    """How a call ended, after its last data frame.

    `exit_code`: 0-255, 128 + N where signal N ended it; `code` and `message`: set
    together when the call failed, empty otherwise; `cpu_us`, `max_rss_kb`: of the
    call's processes, from `wait4` (the guest's word: the host bounds it); `reason`: why
    the file system or a grant refused, out of `FILE_REASONS`.
    """

    __slots__ = ("code", "cpu_us", "exit_code", "max_rss_kb", "message", "reason")

    def __init__(
        self,
        exit_code: int,
        code: str = "",
        message: str = "",
        cpu_us: int = 0,
        max_rss_kb: int = 0,
        reason: str = "",
    ) -> None:
        self.exit_code = exit_code
        self.code = code
        self.message = message
        self.cpu_us = cpu_us
        self.max_rss_kb = max_rss_kb
        self.reason = reason

    def encode(self) -> bytes:
        return strict_json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def parse(cls, payload: bytes) -> Result:
        fields = _fields(payload, cls.__slots__, "RESULT")
        code = text(fields, "code")
        if code and code not in GUEST_CODES:
            raise ProtocolError(f"RESULT code {code[:40]!r} is not the guest's to report")
        exit_code = integer(fields, "exit_code")
        if exit_code > 255:
            raise ProtocolError(f"RESULT exit_code {exit_code} is over 255")
        reason = text(fields, "reason")
        if reason not in FILE_REASONS:
            raise ProtocolError(f"RESULT reason {reason[:40]!r} is none of those known")
        return cls(
            exit_code=exit_code,
            code=code,
            message=text(fields, "message")[:MAX_MESSAGE_CHARS],
            cpu_us=integer(fields, "cpu_us"),
            max_rss_kb=integer(fields, "max_rss_kb"),
            reason=reason,
        )


GUEST_CODES = frozenset(
    str(code)
    for code in (
        ErrorCode.INVALID_REQUEST,
        ErrorCode.NOT_FOUND,
        ErrorCode.TOOL_FAILED,
        ErrorCode.TIMEOUT,
        ErrorCode.OUTPUT_LIMIT,
        ErrorCode.OUT_OF_MEMORY,
        ErrorCode.INTERRUPTED,
    )
)
"""What a guest may say of a call. The rest is the host's to find out."""
FILE_REASONS = frozenset(
    {
        "",
        "not_found",
        "exists",
        "is_a_directory",
        "not_a_directory",
        "permission",
        "no_space",
        "not_empty",
        "too_large",
    }
)
"""Why work on files failed, where it did for a reason that a program can act on."""


def _fields(payload: bytes, names: tuple[str, ...], what: str) -> dict[str, Any]:
    try:
        value = strict_json.loads(payload)
    except ValueError as error:
        raise ProtocolError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ProtocolError(f"{what} does not have exactly the fields {', '.join(names)}")
    return value


def text(fields: dict[str, Any], name: str) -> str:
    value = fields[name]
    if not isinstance(value, str):
        raise ProtocolError(f"{name} is not a string")
    return value


def integer(fields: dict[str, Any], name: str) -> int:
    value = fields[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ProtocolError(f"{name} is not an integer in range")
    return value


def grants(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise ProtocolError("paths or mounts are not a list")
    grants = []
    for item in value:
        match item:
            case [str(path), "ro" | "rw" as mode] if path.startswith("/"):
                grants.append((path, mode))
            case _:
                raise ProtocolError(
                    "paths or mounts hold something else than [absolute path, ro or rw]"
                )
    return grants


def _names(fields: dict[str, Any], name: str) -> list[str]:
    value = fields[name]
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        raise ProtocolError(f"{name} is not a list of strings")
    if len(value) > 1024:
        raise ProtocolError(f"{name} has {len(value)} entries; 1024 at most")
    return value
