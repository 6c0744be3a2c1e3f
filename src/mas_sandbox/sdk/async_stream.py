"""`AsyncStream`: `Stream` for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class AsyncStream(Generic[Item]):
    """An asynchronous iterator over things as they come, no faster than they are taken.

    It is opened by `async with`, or else by the first step. It holds a connection until its
    end; leaving it before that needs the `async with`, or `aclose`: Python closes an
    iterator that was merely dropped at a time of its own.
    """

    def __init__(self, opened: AbstractAsyncContextManager[AsyncIterator[Item]]) -> None:
        self._opened: AbstractAsyncContextManager[AsyncIterator[Item]] | None = opened
        self._undo = AsyncExitStack()
        self._items: AsyncIterator[Item] | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        try:
            await self._open()
            if self._items is None:
                raise StopAsyncIteration
            return await anext(self._items)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection. Safe to call twice."""
        self._opened = self._items = None
        await self._undo.aclose()

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _open(self) -> None:
        if self._opened is not None:
            opened, self._opened = self._opened, None
            self._items = await self._undo.enter_async_context(opened)
