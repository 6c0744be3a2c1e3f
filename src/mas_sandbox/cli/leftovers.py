"""`mas-sandbox doctor --leftovers`: what daemons left on this host that were killed."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from pydantic import BaseModel

from mas_sandbox.sdk.calls import decode

from .ask import ask_daemon
from .screen import console, show_json, visible

Leftovers = Annotated[
    bool, Parameter(name="--leftovers", help="Show what killed daemons left here.")
]


class Leftover(BaseModel):
    """One thing; `processes`: the ids of those that are still in it."""

    kind: str
    name: str
    processes: list[int]


class Found(BaseModel):
    """What `mas-sandboxd -leftovers` prints."""

    leftovers: list[Leftover]


def show_leftovers(*, as_json: bool) -> int:
    """The exit status. Raises DaemonUnavailable."""
    found = decode(Found, ask_daemon("-leftovers"))
    if as_json:
        show_json(found.model_dump(mode="json"))
        return 1 if found.leftovers else 0
    screen = console()
    if not found.leftovers:
        screen.print("nothing is left of daemons that were killed")
        return 0
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    for name in ("WHAT", "NAME", "PROCESSES"):
        table.add_column(name)
    for each in found.leftovers:
        processes = " ".join(map(str, each.processes)) or "-"
        table.add_row(visible(each.kind), visible(each.name), processes)
    screen.print(table)
    screen.print("the next daemon that listens here removes it: mas-sandbox serve -listen :8080")
    return 1
