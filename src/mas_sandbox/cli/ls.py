"""`mas-sandbox ls`: what sandboxes there are."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Annotated, get_args

from cyclopts import Parameter

from mas_sandbox.api.sandboxes import State

from .chosen import DaemonUrl, Json, Token
from .screen import console, show_json, visible
from .words import pairs

if TYPE_CHECKING:
    from mas_sandbox.api.sandboxes import SandboxInfo

_UNITS = (("d", 86_400), ("h", 3600), ("m", 60))
_COLOURS = {"running": "green", "paused": "yellow", "interrupted": "red", "ended": "dim"}


def ls(
    *,
    state: Annotated[
        tuple[State, ...],
        Parameter(help="Only these; may be repeated. All that have not ended if left out."),
    ] = (),
    every: Annotated[
        bool,
        Parameter(name=["--all", "-a"], help="Those too that ended in the last day."),
    ] = False,
    metadata: Annotated[
        tuple[str, ...],
        Parameter(name=["--metadata", "-m"], help="KEY=VALUE that must fit; repeat."),
    ] = (),
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], help="Print only their ids.")] = False,
    url: DaemonUrl = None,
    token: Token = None,
    json: Json = False,
) -> int:
    """List your sandboxes, newest first."""
    from mas_sandbox.sdk.client import Client

    states: tuple[State, ...] = get_args(State) if every else state
    with Client(url, token) as client:
        found = list(
            client.sandboxes(metadata=pairs(metadata, "--metadata") or None, states=states)
        )
    if json:
        show_json([info.model_dump(mode="json") for info in found])
    elif quiet:
        for info in found:
            print(visible(info.sandbox_id))  # noqa: T201 - for scripts
    else:
        _table(found)
    return 0


def _table(found: list[SandboxInfo]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not found:
        console(stderr=True).print("No sandboxes; `mas-sandbox create` starts one.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("ID", "STATE", "RUNTIME", "AGE", "ENDS"):
        table.add_column(column, no_wrap=True)
    table.add_column("ABOUT", overflow="fold")
    now = time.time()
    for info in found:
        about = [f"{key}={value}" for key, value in sorted(info.metadata.items())]
        about += [f"({info.reason})"] if info.reason else []
        table.add_row(
            Text(visible(info.sandbox_id)),
            Text(info.state, style=_COLOURS[info.state]),
            Text(visible(info.runtime)),
            Text(short(now - info.created_ms / 1000)),
            Text(ends(info, now)),
            Text(visible(" ".join(about)), style="dim"),
        )
    console().print(table)


def ends(info: SandboxInfo, now: float) -> str:
    """When it will end if it is left alone. `now`: seconds since the epoch."""
    if info.state != "running":
        return "-"
    left = math.inf if info.expires_ms is None else info.expires_ms / 1000 - now
    return f"{short(info.idle_timeout_s)} idle" if info.idle_timeout_s < left else short(left)


def short(duration_s: float) -> str:
    """In its greatest unit, for tables.

    >>> short(5400), short(59), short(180_000), short(600)
    ('1h', '59s', '2d', '10m')
    """
    left = max(0, int(duration_s))
    for unit, length in _UNITS:
        if left >= length:
            return f"{left // length}{unit}"
    return f"{left}s"
