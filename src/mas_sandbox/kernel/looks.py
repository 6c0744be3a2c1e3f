"""What a value looks like, by media type: what its own `_repr_*_` methods say.

They are IPython's convention ("Rich display" in its documentation), which pandas, matplotlib,
SymPy, Plotly and others follow.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode

from . import figures

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

MAX_BYTES = 4 * 1024 * 1024
"""Of one result, as JSON; the largest of its looks are left out until it fits."""
_METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
    "application/javascript": "_repr_javascript_",
    "application/pdf": "_repr_pdf_",
}


def looks(value: object) -> dict[str, Any]:
    """Raises what its `__repr__` raises; what goes wrong in the rest is told on stderr."""
    found: dict[str, Any] = {"text/plain": repr(value)}
    kind = type(value)
    if not isinstance(value, type):  # of a class, they are its objects' methods
        bundle = getattr(kind, "_repr_mimebundle_", None)
        if callable(bundle):
            told = _first(_asked(bundle, value, include=None, exclude=None))
            found |= told if isinstance(told, dict) else {}
        for media_type, name in _METHODS.items():
            method = getattr(kind, name, None)
            if media_type not in found and callable(method):
                told = _first(_asked(method, value))
                if told is not None:
                    found[media_type] = told
        if "image/png" not in found and figures.is_figure(value):
            found["image/png"] = figures.png(value)
    return fitting(found)


def fitting(found: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can carry it, and not too much."""
    packed = {}
    for media_type, value in found.items():
        text = _packed(media_type, value)
        if text is not None:
            packed[media_type] = text
    while (size := sum(map(len, packed.values()))) > MAX_BYTES:
        largest = max(packed, key=lambda name: len(packed[name]))
        del packed[largest]
        if not packed:
            packed["text/plain"] = json.dumps(f"<{size} bytes of {largest}: too much to show>")
    return {media_type: json.loads(text) for media_type, text in packed.items()}


def _asked(method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    try:
        return method(*arguments, **options)
    except Exception:  # noqa: BLE001  # it is the value's own, and there are other looks
        from traceback import format_exc  # slow to import

        print(format_exc(limit=-1), end="", file=sys.stderr)  # noqa: T201
        return None


def _first(told: Any) -> Any:
    """Without the metadata that may come with it."""
    return told[0] if isinstance(told, tuple) and len(told) == 2 else told


def _packed(media_type: Any, value: Any) -> str | None:
    """Its JSON; None, and a word on stderr, for what has none."""
    is_json = str(media_type).endswith(("/json", "+json"))
    if isinstance(value, bytes | bytearray):
        value = value.decode(errors="replace") if is_text(media_type) else b64encode(value).decode()
    if isinstance(value, str):
        value = value.encode("utf-8", "replace").decode()
    elif not is_json:
        return None
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        print(f"its {media_type} is not JSON: {error}", file=sys.stderr)  # noqa: T201
        return None


def is_text(media_type: Any) -> bool:
    return str(media_type).startswith("text/") or str(media_type).endswith(("+xml", "javascript"))
