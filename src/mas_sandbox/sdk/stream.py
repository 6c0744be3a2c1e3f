"""`Stream`: things that are read as they come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Generic, Self, TypeVar

Item = TypeVar("Item")


class Stream(Generic[Item]):
    """An iterator over things as they come, no faster than they are taken.

    It holds a connection until its end. Leaving it before that closes the connection: at the
    end of its `with` block, by `close`, or when nobody refers to it any more.
    """

    def __init__(self, opened: AbstractContextManager[Iterator[Item]]) -> None:
        self._undo = ExitStack()
        self._items = self._undo.enter_context(opened)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        try:
            return next(self._items)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection. Safe to call twice."""
        self._items = iter(())
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
