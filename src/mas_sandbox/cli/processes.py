"""`mas-sandbox ps | logs | kill`: what runs in a sandbox."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.api.live import Gap, Output

from .attend import attend, leave
from .chosen import DaemonUrl, Json, ProcessName, SandboxId, Token
from .ls import short
from .relay import Showing
from .screen import console, show_json, visible

if TYPE_CHECKING:
    from mas_sandbox.api.live import ProcessInfo
    from mas_sandbox.sdk.events import Happened


def ps(
    sandbox: SandboxId,
    /,
    *,
    url: DaemonUrl = None,
    token: Token = None,
    json: Json = False,
) -> int:
    """List the processes of a sandbox: those that run, then the last that have ended."""
    from mas_sandbox.sdk import Sandbox

    with Sandbox.connect(sandbox, url, token) as place:
        found = place.processes.list()
    if json:
        show_json([info.model_dump(mode="json") for info in found])
    else:
        _table(found)
    return 0


def logs(
    sandbox: SandboxId,
    process: ProcessName,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], help="Until it ends.")] = False,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """Show what a process has written; of a lot, the last of it."""
    from mas_sandbox.sdk import Sandbox

    with Sandbox.connect(sandbox, url, token) as place:
        found = place.processes.get(process)
        info = found.info
        events: Iterable[Happened] = found.events()
        if info.state == "running" and not follow:
            events = so_far(events, info.output_to)
        showing = Showing(terminal=False)
        try:
            attend(
                lambda: showing.all_of(events),
                (signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
                leave,
            )
        finally:
            showing.end()
    return 0


def kill(
    sandbox: SandboxId,
    process: ProcessName,
    /,
    *,
    signal: Annotated[
        str | None,
        Parameter(
            name=["--signal", "-s"],
            help="Such as INT or 2, to its process group. If left out it ends, with all that "
            "it has started.",
        ),
    ] = None,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """End a process, or send it a signal."""
    from mas_sandbox.sdk import Sandbox

    with Sandbox.connect(sandbox, url, token) as place:
        found = place.processes.get(process)
        if signal is None:
            found.kill()
        else:
            found.signal(signal_name(signal))
    return 0


def signal_name(text: str) -> str | int:
    """As the API takes it.

    >>> signal_name("int"), signal_name("SIGTERM"), signal_name("9")
    ('SIGINT', 'SIGTERM', 9)
    """
    if text.isdigit():
        return int(text)
    return "SIG" + text.upper().removeprefix("SIG")


def so_far(events: Iterable[Happened], end: int) -> Iterator[Happened]:
    """Those of what was written before offset `end`; it does not wait for more."""
    at = 0
    for event in events:
        yield event
        match event:
            case Output(offset=offset, data=data):
                at = offset + len(data)
            case Gap(bytes=count):
                at += count
        if at >= end:
            return


def _table(found: tuple[ProcessInfo, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("PID", no_wrap=True, justify="right")
    for column in ("TAG", "STATE", "AGE", "COMMAND"):
        table.add_column(column)
    now = time.time()
    for info in found:
        table.add_row(
            str(info.pid),
            Text(visible(info.tag)),
            Text(_state(info), style="green" if info.state == "running" else "dim"),
            short(now - info.started_ms / 1000),
            Text(visible(" ".join(info.argv) or info.cmd)),
        )
    console().print(table)


def _state(info: ProcessInfo) -> str:
    if info.state == "running":
        return "running, in a terminal" if info.pty else "running"
    if info.signal is not None:
        try:
            return f"ended by {signal.Signals(info.signal).name}"
        except ValueError:
            return f"ended by signal {info.signal}"
    if info.exit_code is None:
        return f"lost: {info.error.code}" if info.error is not None else "lost"
    return f"exited {info.exit_code}"
