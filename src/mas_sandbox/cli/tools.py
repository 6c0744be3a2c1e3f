"""`mas-sandbox tools`: what can be run."""

from __future__ import annotations

from mas_sandbox.api.models import ToolInfo

from .chosen import Json, Url, executor
from .screen import console, show_json, visible


def tools(*, url: Url = None, json: Json = False) -> int:
    """List the tools there are; of a running daemon, those that its policy allows you."""
    with executor(url) as chosen:
        infos = chosen.tools()
    if json:
        show_json([info.model_dump(mode="json") for info in infos])
        return 0
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("TOOL", "ARGUMENTS", "MAY", "WHAT IT DOES"):
        table.add_column(column)
    for info in infos:
        table.add_row(
            Text(visible(info.name), style="cyan"),
            Text(visible(signature(info))),
            Text(", ".join(info.capabilities) or "nothing", style="dim"),
            Text(visible(summary(info))),
        )
    console().print(table)
    return 0


def summary(info: ToolInfo) -> str:
    """The first sentence of what a model is told."""
    first, stop, _ = " ".join(info.description.split()).partition(". ")
    return first + stop.rstrip()


def signature(info: ToolInfo) -> str:
    """The arguments' names, those that may be left out in brackets."""
    required = info.input_schema.get("required", [])
    names = info.input_schema.get("properties", {})
    return " ".join(name if name in required else f"[{name}]" for name in names)
