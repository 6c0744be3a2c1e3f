"""The first source that is sent: it finds the others among what came with it, and begins."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, BinaryIO


class Sent:
    """Finds modules whose source was sent. `sources`: by the module's whole name; that of the
    package is empty."""

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources = sources

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name not in self._sources:
            return None
        return ModuleSpec(name, self, is_package="." not in name)  # type: ignore[arg-type] # duck

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        name = module.__name__
        exec(compile(self._sources[name], f"<{name}>", "exec"), module.__dict__)  # noqa: S102  # it was sent for that


def boot(sources: dict[str, str], settings: dict[str, Any], asked: BinaryIO) -> None:
    """Serve what comes from `asked`, until there is no more."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    sys.meta_path.insert(0, Sent(sources))
    from mas_sandbox_kernel.serve import serve  # type: ignore[import-not-found]

    serve(settings, asked)
