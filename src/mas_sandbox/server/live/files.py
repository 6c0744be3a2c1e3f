"""The files of every named sandbox. What a policy says of the tool `files` decides; the
paths it grants are held inside."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from mas_sandbox.api.live import Entry, EntryList, Unpacked
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import Kind
from mas_sandbox.wire.messages import Call

from .abandon import abandon
from .failure import FileError, check, nonsense, too_large
from .watch import Watch

if TYPE_CHECKING:
    from mas_sandbox.runtimes.live import LiveStream

    from ..broker import Broker, Operation
    from ..calls import Caller

Model = TypeVar("Model", bound=BaseModel)

MAX_TRANSFERS = 64
"""Files, archives and watches that are open in one sandbox at once."""
MAX_VALUE = 8 * 1024 * 1024
MAX_UPLOAD = 16 * 1024 * 1024 * 1024
"""Where the policy has no `disk_mb`."""
MAX_ENTRIES = 100_000
_HEADERS = 2
"""How many times its content an archive may be."""
_UNBOUNDED = 1 << 62
"""Output that goes straight on to a client is held by credit, not by a count."""


class Source:
    """A file, or an archive of a directory, on its way out. `entry`: None of an archive."""

    def __init__(self, stream: LiveStream, first: bytes | None) -> None:
        self._stream = stream
        self._first = first

    @classmethod
    async def of(cls, stream: LiveStream) -> Source:
        """Once it has begun. Raises FileError where it cannot."""
        first = await _output(stream)
        if first is None:
            check(await stream.result)
        return cls(stream, first)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises FileError, or SandboxError, for one that breaks off."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await _output(self._stream)
        check(await self._stream.result)


class Files:
    """Work on files. All of it raises SandboxError: what the policy says; FileError, with
    its reason, for what the sandbox answers."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._open: Counter[str] = Counter()

    async def stat(self, caller: Caller, sandbox_id: str, path: str) -> Entry:
        return await self._ask(caller, sandbox_id, "stat", {"path": path}, Entry)

    async def list(
        self, caller: Caller, sandbox_id: str, path: str, depth: int, limit: int
    ) -> EntryList:
        args = {"path": path, "depth": depth, "limit": limit}
        return await self._ask(caller, sandbox_id, "list", args, EntryList)

    async def mkdir(self, caller: Caller, sandbox_id: str, path: str, parents: bool) -> Entry:
        args = {"path": path, "parents": parents}
        return await self._ask(caller, sandbox_id, "mkdir", args, Entry)

    async def move(
        self, caller: Caller, sandbox_id: str, source: str, destination: str, overwrite: bool
    ) -> Entry:
        args = {"source": source, "destination": destination, "overwrite": overwrite}
        return await self._ask(caller, sandbox_id, "move", args, Entry)

    async def remove(self, caller: Caller, sandbox_id: str, path: str, recursive: bool) -> None:
        args = {"path": path, "recursive": recursive}
        async with self._operation(caller, sandbox_id, "remove", args) as operation:
            await self._value(operation, "remove", args)

    @asynccontextmanager
    async def reading(
        self, caller: Caller, sandbox_id: str, path: str
    ) -> AsyncIterator[tuple[Entry, Reading]]:
        """What lies at `path`, and a way to read of it, while the block runs."""
        async with self._operation(caller, sandbox_id, "read", {"path": path}) as operation:
            entry = _model(await self._value(operation, "stat", {"path": path}), Entry, "stat")
            if entry.type == "directory":
                raise FileError(
                    ErrorCode.TOOL_FAILED,
                    "this is a directory; list it, or take it as an archive",
                    "is_a_directory",
                )
            reading = Reading(self, operation, path)
            try:
                yield entry, reading
            finally:
                reading.close()

    async def write(
        self,
        caller: Caller,
        sandbox_id: str,
        path: str,
        body: AsyncIterator[bytes],
        *,
        mode: int | None,
        parents: bool,
    ) -> Entry:
        """Write a whole file; nothing of it is there where `body` breaks off."""
        args: dict[str, Any] = {"path": path, "parents": parents}
        if mode is not None:
            args["mode"] = mode
        async with self._operation(caller, sandbox_id, "write", args) as operation:
            value = await self._fed(operation, "write", args, body, _disk(operation))
        return _model(value, Entry, "write")

    async def unpack(
        self, caller: Caller, sandbox_id: str, path: str, body: AsyncIterator[bytes]
    ) -> Unpacked:
        """Unpack a tar archive beneath `path`."""
        async with self._operation(caller, sandbox_id, "unpack", {"path": path}) as operation:
            limit = _disk(operation)
            args = {"path": path, "max_entries": MAX_ENTRIES, "max_bytes": limit}
            value = await self._fed(operation, "unpack", args, body, _HEADERS * limit)
        return _model(value, Unpacked, "unpack")

    @asynccontextmanager
    async def packing(self, caller: Caller, sandbox_id: str, path: str) -> AsyncIterator[Source]:
        """A directory as a tar archive, while the block runs."""
        args = {"path": path}
        async with self._operation(caller, sandbox_id, "pack", args) as operation:
            stream = self.stream(operation, "pack", args)
            try:
                yield await Source.of(stream)
            finally:
                abandon(stream)

    @asynccontextmanager
    async def watching(
        self, caller: Caller, sandbox_id: str, path: str, recursive: bool
    ) -> AsyncIterator[Watch]:
        """What happens beneath `path`, while the block runs. Leaving it raises SandboxError,
        for the record: nothing else ends a watch."""
        args = {"path": path, "recursive": recursive}
        async with self._operation(caller, sandbox_id, "watch", args) as operation:
            stream = self.stream(operation, "watch", args)
            try:
                yield await Watch.of(stream)
                if not stream.result.done():
                    raise SandboxError(ErrorCode.INTERRUPTED, "the client went away")
                check(stream.result.result())
            finally:
                abandon(stream)

    def stream(self, operation: Operation, tool: str, args: Mapping[str, Any]) -> LiveStream:
        """A call whose time and output are bounded by whoever is at the other end of it."""
        name = operation.named.id
        if self._open[name] >= MAX_TRANSFERS:
            raise SandboxError(
                ErrorCode.OVERLOADED,
                f"{MAX_TRANSFERS} transfers and watches are open in this sandbox; end one",
            )
        call = _call(operation, tool, args)
        call.timeout_ms, call.output_bytes = 0, _UNBOUNDED
        stream = operation.named.sandbox.channel.stream(call)
        self._open[name] += 1
        stream.result.add_done_callback(lambda _: self._closed(name))
        return stream

    def _closed(self, name: str) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]

    @asynccontextmanager
    async def _operation(
        self, caller: Caller, sandbox_id: str, name: str, args: Mapping[str, Any]
    ) -> AsyncIterator[Operation]:
        described = {"operation": name, **args}
        async with self._broker.operation(caller, sandbox_id, "files", described) as operation:
            yield operation

    async def _ask(
        self,
        caller: Caller,
        sandbox_id: str,
        name: str,
        args: Mapping[str, Any],
        model: type[Model],
    ) -> Model:
        async with self._operation(caller, sandbox_id, name, args) as operation:
            return _model(await self._value(operation, name, args), model, name)

    async def _value(self, operation: Operation, tool: str, args: Mapping[str, Any]) -> Any:
        """What a call returns that neither reads nor writes much."""
        outcome = await operation.named.sandbox.run(_call(operation, tool, args))
        if outcome.code is not None:
            raise FileError(outcome.code, outcome.message, outcome.reason)
        return outcome.value

    async def _fed(
        self,
        operation: Operation,
        tool: str,
        args: Mapping[str, Any],
        body: AsyncIterator[bytes],
        limit: int,
    ) -> Any:
        """What a call returns that reads `body`, of `limit` bytes at most."""
        stream = self.stream(operation, tool, args)
        try:
            await _feed_while_it_lasts(stream, body, limit)
            value = await _returned(stream, tool)
            check(await stream.result)
        finally:
            abandon(stream)
        try:
            return strict_json.loads(value, max_bytes=MAX_VALUE)
        except ValueError as error:
            raise nonsense(tool) from error


class Reading:
    """One file that can be read, once."""

    def __init__(self, files: Files, operation: Operation, path: str) -> None:
        self._files = files
        self._operation = operation
        self._path = path
        self._stream: LiveStream | None = None

    async def begin(self, offset: int, length: int | None) -> Source:
        """From `offset` on; to the end where `length` is None. Raises FileError."""
        args: dict[str, Any] = {"path": self._path, "offset": offset}
        if length is not None:
            args["length"] = length
        self._stream = self._files.stream(self._operation, "read", args)
        return await Source.of(self._stream)

    def close(self) -> None:
        if self._stream is not None:
            abandon(self._stream)


def _call(operation: Operation, tool: str, args: Mapping[str, Any]) -> Call:
    allowed = operation.plan.call
    return Call(
        f"sandbox.{tool}",
        dict(args),
        timeout_ms=allowed.timeout_ms,
        cpu_ms=allowed.cpu_ms,
        output_bytes=MAX_VALUE,
        nofile=allowed.nofile,
        cwd=allowed.cwd,
        paths=allowed.paths,
    )


def _disk(operation: Operation) -> int:
    disk_mb = operation.plan.built.spec.disk_mb
    return MAX_UPLOAD if disk_mb is None else disk_mb * 1024 * 1024


async def _feed_while_it_lasts(stream: LiveStream, body: AsyncIterator[bytes], limit: int) -> None:
    """`_feed`, until the call has ended: a client that is slow, or waits, is not waited for."""
    feeding = asyncio.create_task(_feed(stream, body, limit))
    try:
        await asyncio.wait((feeding, stream.result), return_when=asyncio.FIRST_COMPLETED)
        if feeding.done():
            feeding.result()
    finally:
        feeding.cancel()
        await asyncio.wait((feeding,))


async def _feed(stream: LiveStream, body: AsyncIterator[bytes], limit: int) -> None:
    """Write all of `body`, or as much as the call wants."""
    written = 0
    async for piece in body:
        written += len(piece)
        if written > limit:
            raise too_large(limit)
        try:
            await stream.write(piece)
        except SandboxError:
            if not stream.result.done():
                raise
            return  # why it wants no more, its result tells
    stream.write_eof()


async def _returned(stream: LiveStream, tool: str) -> bytes:
    value = bytearray()
    while (item := await stream.read()) is not None:
        if item[0] is Kind.VALUE:
            value += item[1]
            if len(value) > MAX_VALUE:
                raise nonsense(tool)
    return bytes(value)


async def _output(stream: LiveStream) -> bytes | None:
    while (item := await stream.read()) is not None:
        if item[0] is Kind.STDOUT:
            return item[1]
    return None


def _model(value: Any, model: type[Model], tool: str) -> Model:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise nonsense(tool) from error
