"""The bodies of what is done in a named sandbox besides tool calls: processes and files."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    RootModel,
    WithJsonSchema,
    model_validator,
)

from .models import ErrorBody

SIGNALS = {
    "SIGHUP": 1,
    "SIGINT": 2,
    "SIGQUIT": 3,
    "SIGKILL": 9,
    "SIGUSR1": 10,
    "SIGUSR2": 12,
    "SIGTERM": 15,
    "SIGCONT": 18,
    "SIGSTOP": 19,
    "SIGTSTP": 20,
    "SIGWINCH": 28,
}
"""Linux's numbers (signal(7)), whatever the daemon runs on."""


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a NUL character")
    return text


def _decoded(value: object) -> object:
    """Strictly: what is skipped over would be lost without a word."""
    if not isinstance(value, str):
        return value
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"is not base64: {error}") from error


Base64 = Annotated[
    bytes,
    BeforeValidator(_decoded),
    PlainSerializer(lambda data: b64encode(data).decode(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Text = Annotated[str, AfterValidator(_without_nul)]
Path = Annotated[
    str, Field(min_length=1, max_length=4095, examples=["/workspace"]), AfterValidator(_without_nul)
]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,254}$")]
Cells = Annotated[int, Field(ge=1, le=65535)]
OnDisconnect = Literal["detach", "cancel"]


class TerminalSize(_Body):
    """The size of a terminal, in characters."""

    rows: Cells = 24
    cols: Cells = 80


class StartProcess(_Body):
    """`POST /v1/sandboxes/{id}/processes`: `argv`, or `cmd` for a shell.

    `tag`: a name of the caller's own to find it by; `timeout_ms`: 0 for as long as the
    sandbox lives; `pty`: a terminal instead of pipes; `stdin`: where false, its standard input
    is at its end from the beginning; `on_disconnect`: what becomes of the process when the
    client goes away that its output is streamed to.
    """

    argv: tuple[Text, ...] = Field(default=(), max_length=4096)
    cmd: Text = ""
    cwd: Text = Field(default="", max_length=4095)
    env: dict[VariableName, Text] = Field(default_factory=dict, max_length=1024)
    user: Text = Field(default="", max_length=64)
    pty: TerminalSize | None = None
    stdin: bool = True
    tag: str = Field(default="", pattern=r"^([A-Za-z_][A-Za-z0-9._:-]{0,127})?$")
    timeout_ms: int = Field(default=0, ge=0, le=31_536_000_000)
    on_disconnect: OnDisconnect = "detach"

    @model_validator(mode="after")
    def _one_program(self) -> StartProcess:
        if bool(self.argv) == bool(self.cmd) or self.argv[:1] == ("",):
            raise ValueError("give argv, or cmd for a shell")
        return self


class ProcessInfo(_Body):
    """One process. `output_from`, `output_to`: the offsets of what is kept of its output;
    `signal`: as a shell tells it, exit code less 128; `error`: why it was ended, if it was."""

    pid: int
    tag: str
    argv: tuple[str, ...]
    cmd: str
    cwd: str
    pty: bool
    state: Literal["running", "exited"]
    started_ms: int
    ended_ms: int | None = None
    exit_code: int | None = None
    signal: int | None = None
    error: ErrorBody | None = None
    output_from: int
    output_to: int


class ProcessList(_Body):
    """`GET /v1/sandboxes/{id}/processes`: those that run, then the last that have ended."""

    processes: tuple[ProcessInfo, ...]


class ProcessInput(_Body):
    """`POST .../stdin` as JSON. `data`: base64; `eof`: close its standard input after it."""

    data: Base64 = b""
    eof: bool = False


def _signal_number(value: object) -> object:
    return SIGNALS.get(value, value) if isinstance(value, str) else value


class SignalProcess(_Body):
    """`POST .../signal`: a number, or a name such as SIGINT; to the whole process group."""

    signal: Annotated[
        int,
        BeforeValidator(_signal_number, json_schema_input_type=int | Literal[*SIGNALS]),
        Field(ge=1, le=64),
    ]


class WaitForProcess(_Body):
    """`POST .../wait`. `timeout_ms`: answer by then, ended or not; 0 for no such limit."""

    timeout_ms: int = Field(default=0, ge=0, le=86_400_000)


class Started(_Body):
    """The first event of a process."""

    type: Literal["start"]
    pid: int
    tag: str


class Output(_Body):
    """What it wrote. `offset`: of its first byte, counted over all of the process's output;
    `data`: base64."""

    type: Literal["stdout", "stderr", "pty"]
    offset: int
    data: Base64


class Gap(_Body):
    """So many bytes were written while nobody was attached, and are no longer kept."""

    type: Literal["gap"]
    bytes: int


class Exited(_Body):
    """The last event of a process. `exit_code`: null where the sandbox did not live to say."""

    type: Literal["exit"]
    exit_code: int | None
    signal: int | None
    error: ErrorBody | None


class KeepAlive(_Body):
    """Nothing has happened for a while."""

    type: Literal["keepalive"]


class Failed(_Body):
    """Something the client asked for over a WebSocket, or the stream itself, has failed."""

    type: Literal["error"]
    error: ErrorBody


class ProcessEvent(
    RootModel[
        Annotated[Started | Output | Gap | Exited | KeepAlive | Failed, Field(discriminator="type")]
    ]
):
    """One event of a process, the same over WebSocket, server-sent events and NDJSON."""


class StdinMessage(_Body):
    """Bytes for standard input; a binary WebSocket message is the same."""

    type: Literal["stdin"]
    data: Base64


class EofMessage(_Body):
    """Close standard input."""

    type: Literal["eof"]


class SignalMessage(SignalProcess):
    """Send a signal."""

    type: Literal["signal"]


class ResizeMessage(TerminalSize):
    """Tell its terminal its size."""

    type: Literal["resize"]


class KillMessage(_Body):
    """End it and all that it started."""

    type: Literal["kill"]


class ProcessMessage(
    RootModel[
        Annotated[
            StdinMessage | EofMessage | SignalMessage | ResizeMessage | KillMessage,
            Field(discriminator="type"),
        ]
    ]
):
    """What a client may say over a process's WebSocket."""


class Entry(BaseModel):
    """A file, directory or link. `path`: absolute; `size` in bytes; `mode`: permissions, as
    a number (420 is 0644); `modified_ms`: Unix time; `target`: what a symbolic link holds."""

    model_config = ConfigDict(frozen=True)

    path: str
    name: str
    type: Literal["file", "directory", "symlink", "other"]
    size: int = Field(ge=0)
    mode: int = Field(ge=0, le=0o7777)
    modified_ms: int
    target: str | None = None


class EntryList(BaseModel):
    """`GET .../files/list`. `truncated`: there is more than was asked for."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[Entry, ...]
    truncated: bool = False


class FileContent(_Body):
    """One file of many: `text`, or `data` in base64. `mode` as a number; that of the file
    which is there, else 0644, where it is missing."""

    path: Path
    text: str | None = None
    data: Base64 | None = None
    mode: int | None = Field(default=None, ge=0, le=0o777)

    @property
    def content(self) -> bytes:
        return self.data if self.data is not None else (self.text or "").encode()

    @model_validator(mode="after")
    def _one_content(self) -> FileContent:
        if (self.text is None) == (self.data is None):
            raise ValueError("give text, or data in base64")
        return self


class WriteFiles(_Body):
    """`POST .../files`: many small files. Missing directories are made."""

    files: tuple[FileContent, ...] = Field(min_length=1, max_length=256)


class WrittenFile(_Body):
    """How one of them went: its entry, or why there is none."""

    path: str
    entry: Entry | None = None
    error: ErrorBody | None = None


class WrittenFiles(_Body):
    """In the order in which they were asked for."""

    files: tuple[WrittenFile, ...]


class MakeDirectory(_Body):
    """`POST .../files/mkdir`. `parents`: make those above it, and be content if it is there."""

    path: Path
    parents: bool = False


class MoveFile(_Body):
    """`POST .../files/move`. `destination` is the whole new path."""

    source: Path
    destination: Path
    overwrite: bool = False


class RemovedFile(_Body):
    """`DELETE .../files`."""

    path: str


class Unpacked(BaseModel):
    """`PUT .../files/archive`: what was unpacked."""

    model_config = ConfigDict(frozen=True)

    entries: int = Field(ge=0)
    bytes: int = Field(ge=0)


class SignUrl(_Body):
    """`POST .../files/sign`: a URL that needs no token, for this file and method only."""

    path: Path
    method: Literal["GET", "PUT"] = "GET"
    expires_s: int = Field(default=3600, ge=1, le=604_800)


class SignedUrl(_Body):
    """`url`: without scheme and host; `expires`: Unix time, after which it is nobody's. It
    ends with the sandbox and with the daemon as well."""

    url: str
    expires: int


class FileChange(_Body):
    """Something happened to a file. `to`: where a moved one is now."""

    type: Literal["created", "modified", "removed", "moved"]
    path: str
    to: str | None = None


class Overflow(_Body):
    """More has happened than could be told; look again."""

    type: Literal["overflow"]
    path: str


class Watching(_Body):
    """The first event of a watch: what happens from now on is told."""

    type: Literal["start"]
    path: str


class FileEvent(
    RootModel[
        Annotated[
            Watching | FileChange | Overflow | KeepAlive | Failed, Field(discriminator="type")
        ]
    ]
):
    """One event of a watched directory."""
