"""Python as its own prompt has it: the value of the last expression is shown, and `await` may
stand anywhere."""

from __future__ import annotations

import ast
import builtins
import linecache
import sys

from . import figures
from .looks import fitting, looks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Coroutine
    from traceback import TracebackException
    from types import CodeType, TracebackType
    from typing import Any

    from .line import Line

_FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
_COROUTINE = 0x80
"""`inspect.CO_COROUTINE`, whose module takes longer to import than all else here."""
_MAX_VALUE, _MAX_TRACEBACK = 16 * 1024, 64 * 1024
FILE = "<run %d>"
OWN = f"<{__package__}."


class Plain:
    """Code runs in the module `__main__`, and `display` is built in."""

    name = "plain"

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loop: AbstractEventLoop | None = None
        main = sys.modules["__main__"] = type(sys)("__main__")
        main.__dict__["__builtins__"] = builtins
        self._names = main.__dict__
        self.display = offered(Display(line))

    def run(self, code: str, execution: int) -> None:
        """Raises what the code raises."""
        file = FILE % execution
        # Where tracebacks and `inspect` look for source; what has no time is never checked.
        linecache.cache[file] = len(code), None, code.splitlines(keepends=True), file
        tree = compile(code, file, "exec", ast.PyCF_ONLY_AST | _FLAGS, dont_inherit=True)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        self._execute(compile(tree, file, "exec", _FLAGS, dont_inherit=True))
        if isinstance(last, ast.Expr):
            asked = ast.Expression(last.value)
            value = self._execute(compile(asked, file, "eval", _FLAGS, dont_inherit=True))
            if value is not None:
                builtins._ = value  # type: ignore[attr-defined]
                self._line.say({"type": "result", "data": looks(value), "main": True})

    def tell(self, error: BaseException) -> None:
        """What it raised, without the frames that are not the code's."""
        self._line.say(described(error))

    def _execute(self, compiled: CodeType) -> Any:
        value = eval(compiled, self._names)  # noqa: S307  # what a kernel is for
        if compiled.co_flags & _COROUTINE:
            return self._await(value)
        return value

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import asyncio

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        task = self._loop.create_task(coroutine)
        try:
            return self._loop.run_until_complete(task)
        finally:
            if not task.done():  # interrupted: let it clean up after itself
                task.cancel()
                self._loop.run_until_complete(asyncio.wait([task]))


class Display:
    """The built-in `display`."""

    def __init__(self, line: Line) -> None:
        self._line = line

    def __call__(self, *values: object, raw: bool = False) -> None:
        """Show each value as richly as it can be. `raw`: they are dictionaries of media type
        to what is to be shown, as `_repr_mimebundle_` returns them."""
        for value in values:
            shown = fitting(value) if raw and isinstance(value, dict) else looks(value)
            self._line.say({"type": "result", "data": shown, "main": False})


def offered(display: Callable[..., None]) -> Callable[..., None]:
    """Have code find it as `display`, and pyplot's `show` use it once that is imported."""
    builtins.display = display  # type: ignore[attr-defined]
    sys.meta_path.insert(0, figures.ShowsInline(display))
    return display


def described(error: BaseException) -> dict[str, str]:
    frames = error.__traceback__
    while frames is not None and not frames.tb_frame.f_code.co_filename.startswith("<run "):
        frames = frames.tb_next
    return {
        "type": "exception",
        "name": type(error).__name__,
        "value": _bounded(_text_of(error), _MAX_VALUE),
        "traceback": _bounded(_traceback(error, frames), _MAX_TRACEBACK),
    }


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  # its own fault
        return "<its text cannot be had>"


def _traceback(error: BaseException, frames: TracebackType | None) -> str:
    from traceback import TracebackException  # seldom needed, and slow to import

    told = TracebackException(type(error), error, frames, compact=True)
    _without_kernel(told)
    return "".join(told.format())


def _without_kernel(told: TracebackException) -> None:
    """Drop our own frames: those between `display` and a `__repr__`, or of an interrupt."""
    told.stack[:] = [each for each in told.stack if not each.filename.startswith(OWN)]
    for other in (told.__cause__, told.__context__, *(getattr(told, "exceptions", None) or ())):
        if other is not None:
            _without_kernel(other)


def _bounded(text: str, limit: int) -> str:
    """Its beginning and its end, which says more."""
    text = text.encode("utf-8", "replace").decode()
    if len(text) <= limit:
        return text
    return (
        f"{text[: limit // 4]}\n[... {len(text) - limit} characters ...]\n{text[-limit * 3 // 4 :]}"
    )
