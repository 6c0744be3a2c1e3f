"""The events of processes and of files: decoded, and told apart from what has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, RootModel

from mas_sandbox.api.live import (
    Exited,
    Failed,
    FileEvent,
    Gap,
    KeepAlive,
    Output,
    Started,
    Watching,
)

from .calls import decode
from .errors import BadReply, CallError, error_of
from .reading import Told

if TYPE_CHECKING:
    from mas_sandbox.api.live import FileChange, Overflow

Happened: TypeAlias = Started | Output | Gap | Exited
"""What is told of a process."""


class _Piece(BaseModel):
    """`Output`, its base64 decoded within pydantic's core: six times as fast as binascii."""

    model_config = ConfigDict(val_json_bytes="base64")

    type: Literal["stdout", "stderr", "pty"]
    offset: int
    data: bytes


class _ProcessEvent(
    RootModel[
        Annotated[Started | _Piece | Gap | Exited | KeepAlive | Failed, Field(discriminator="type")]
    ]
):
    """`api.live.ProcessEvent`, for many of them."""


def _process_event(body: bytes | str) -> Happened | None:
    match decode(_ProcessEvent, body).root:
        case _Piece(type=pipe, offset=offset, data=data):
            return Output.model_construct(type=pipe, offset=offset, data=data)
        case KeepAlive():
            return None
        case Failed(error=error):
            raise error_of(error)
        case happened:
            return happened


def _file_event(body: bytes | str) -> Watching | FileChange | Overflow | None:
    match decode(FileEvent, body).root:
        case KeepAlive():
            return None
        case Failed(error=error):
            raise error_of(error)
        case happened:
            return happened


PROCESS: Told[Happened] = Told(_process_event, Exited)
FILES: Told[Watching | FileChange | Overflow] = Told(_file_event, None)


class Spoken:
    """What is said over a process's WebSocket. That something asked of the process has failed
    does not end it; it is the reason where nothing follows. `over`: it has ended."""

    def __init__(self) -> None:
        self.over = False
        self._failure: CallError | None = None

    def hear(self, message: bytes | str) -> Happened | None:
        try:
            event = PROCESS.decode(message)
        except BadReply:
            raise
        except CallError as error:
            self._failure = error
            return None
        self.over = type(event) is PROCESS.last
        return event

    def reason(self, otherwise: CallError) -> CallError:
        """Why the connection ended before the process."""
        return self._failure or otherwise
