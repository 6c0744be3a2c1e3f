"""What happens to the files of a directory, as it happens."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.frames import Kind

from .events import Event, event
from .failure import check, nonsense

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

_TOLD = {
    "watching": "start",
    "created": "created",
    "modified": "modified",
    "removed": "removed",
    "moved": "moved",
    "overflow": "overflow",
}
"""What the sandbox calls an event, and what a client is told."""
_MAX_LINE = 64 * 1024


class Watch:
    """The events of one `sandbox.watch`, a line of JSON each."""

    def __init__(self, stream: LiveStream) -> None:
        self._stream = stream
        self._rest = b""
        self._ready: deque[Event] = deque()

    @classmethod
    async def of(cls, stream: LiveStream) -> Watch:
        """One that has begun. Raises FileError where there is nothing to watch."""
        watch = cls(stream)
        if (first := await watch.next()) is not None:
            watch._ready.appendleft(first)
        return watch

    async def next(self) -> Event | None:
        """The next change; None when there will be none. Cancelling it loses nothing.
        Raises FileError where it fails, SandboxError when the sandbox is gone."""
        while not self._ready:
            item = await self._stream.read()
            if item is None:
                check(await self._stream.result)
                return None
            if item[0] is Kind.STDOUT:
                self._take(item[1])
        return self._ready.popleft()

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _MAX_LINE:
            raise nonsense("watch")
        self._ready.extend(_change(line) for line in lines)


def _change(line: bytes) -> Event:
    try:
        match strict_json.loads(line, max_bytes=_MAX_LINE):
            case {"event": str(kind), "path": str(path), **others} if kind in _TOLD:
                to = others.get("to")
                if to is None or isinstance(to, str):
                    return event(_TOLD[kind], {"path": path} | ({} if to is None else {"to": to}))
    except ValueError as error:
        raise nonsense("watch") from error
    raise nonsense("watch")
