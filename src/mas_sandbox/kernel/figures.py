"""Figures of matplotlib, where the code uses it: each is shown once, when its run is over or
when `pyplot.show` says so. Nothing here imports it."""

from __future__ import annotations

import sys
from io import BytesIO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_shown: set[int] = set()
"""By `id`, of those that are open."""


def is_figure(value: object) -> bool:
    kind = getattr(sys.modules.get("matplotlib.figure"), "Figure", None)
    return kind is not None and isinstance(value, kind)


def png(figure: Any) -> bytes:
    """Once it was asked for, `show_all` leaves it out."""
    picture = BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight")
    _shown.add(id(figure))
    return picture.getvalue()


def show_all(display: Callable[[object], None]) -> None:
    """Display and close what pyplot has open."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None or not hasattr(pyplot, "get_fignums"):
        return
    try:
        for number in pyplot.get_fignums():
            figure = pyplot.figure(number)
            if id(figure) not in _shown:
                display(figure)
    finally:
        pyplot.close("all")
        _shown.clear()


class ShowsInline:
    """Finds pyplot as the others would, and has its `show` display what is open: there is no
    window to show it in."""

    def __init__(self, display: Callable[[object], None]) -> None:
        self._display = display

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "matplotlib.pyplot":
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def show(*arguments: object, **options: object) -> None:
                """Display all open figures."""
                show_all(self._display)

            def executed(module: ModuleType) -> None:
                execute(module)
                module.__dict__["show"] = show

            # A loader is made for one module.
            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec
