"""`mas-sandbox doctor`: what this host can enforce, and the commands that mend the rest."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel

from mas_sandbox.sdk.calls import decode
from mas_sandbox.wire.controls import Control
from mas_sandbox.wire.isolation import Isolation

from .ask import ask_daemon
from .chosen import Json
from .leftovers import Leftovers, show_leftovers
from .machines import MachineFacts, machine_lines
from .screen import console, show_json, visible

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

PROBE_TIMEOUT_S = 600.0
"""A guest is booted with each hypervisor there is, once since the host was started."""


class ControlFinding(BaseModel):
    """One control of one runtime, as `mas-sandboxd -probe` reports it."""

    enforced: bool
    mechanism: str = ""
    mend: str = ""


class RuntimeFinding(BaseModel):
    """One runtime. `reason` and `mend` are empty where it is available; `warning` is what
    an operator should know of it there."""

    available: bool
    taken_by_auto: bool = True
    version: str = ""
    reason: str = ""
    mend: str = ""
    warning: str = ""
    isolation: Isolation
    controls: dict[str, ControlFinding] = {}
    facts: MachineFacts | None = None


class Host(BaseModel):
    """The machine that was probed."""

    kernel: str
    python: str
    uid: int


class Findings(BaseModel):
    """What `mas-sandboxd -probe` prints. Runtimes come weakest first."""

    version: str
    host: Host
    runtimes: dict[str, RuntimeFinding]

    @property
    def best(self) -> str | None:
        """What `-runtime auto` takes: the strongest that works, never one without walls."""
        walls = [
            (finding.isolation.strength, name)
            for name, finding in self.runtimes.items()
            if finding.available
            and finding.taken_by_auto
            and finding.isolation is not Isolation.NONE
        ]
        return max(walls)[1] if walls else None


def doctor(*, json: Json = False, leftovers: Leftovers = False) -> int:
    """Show what this host can enforce, and the commands that mend what it cannot.

    Exit status 0 where there is a runtime with walls, else 1. With --leftovers, show what
    daemons left here that were killed: 0 where there is nothing, else 1.
    """
    if leftovers:
        return show_leftovers(as_json=json)
    findings = probe()
    if json:
        show_json(findings.model_dump(mode="json") | {"auto": findings.best})
    else:
        _print(findings)
    return 0 if findings.best else 1


def probe() -> Findings:
    """Ask the daemon's program; raises DaemonUnavailable."""
    said = "attacking every wall, once for each boot of this machine: up to a minute or two"
    with console(stderr=True).status(said):  # nothing where that is no terminal
        return decode(Findings, ask_daemon("-probe", PROBE_TIMEOUT_S))


def _print(findings: Findings) -> None:
    screen = console()
    host = findings.host
    who = "root" if host.uid == 0 else f"uid {host.uid}"
    screen.print(
        visible(f"mas-sandbox {findings.version} on {host.kernel}, Python {host.python}, {who}"),
        markup=False,
    )
    screen.print()
    screen.print(_matrix(findings))
    screen.print()
    for line in (*_machines(findings), *_warnings(findings), *mends(findings)):
        screen.print(visible(line), markup=False, soft_wrap=True)
    if findings.best:
        screen.print(f"[green]ready[/]: `-runtime auto` takes {visible(findings.best)}")
        for name, found in findings.runtimes.items():
            if found.available and not found.taken_by_auto and found.isolation is Isolation.VM:
                screen.print(
                    f"       `-runtime {name}` works too, emulated: slower, stronger walls"
                )
    else:
        screen.print("[red]not ready[/]: no runtime with walls works here")


def _matrix(findings: Findings) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 3, 0, 0))
    table.add_column("CONTROL")
    for name in findings.runtimes:
        table.add_column(visible(name).upper())
    table.add_row("available", *map(_availability, findings.runtimes.values()))
    table.add_row("isolation", *(Text(found.isolation) for found in findings.runtimes.values()))
    for control in Control:
        table.add_row(control, *(_cell(found, control) for found in findings.runtimes.values()))
    return table


def _warnings(findings: Findings) -> Iterator[str]:
    for name, found in findings.runtimes.items():
        if found.warning:
            yield f"Warning, {name}: {found.warning}"


def _machines(findings: Findings) -> Iterator[str]:
    for name, found in findings.runtimes.items():
        lines = [] if found.facts is None else machine_lines(found.facts, time.time())
        if lines:
            yield f"Machines of {name}:"
            yield from lines
            yield ""


def _availability(found: RuntimeFinding) -> Text:
    from rich.text import Text

    if found.available:
        return Text(f"✓ {visible(found.version)}".rstrip(), style="green")
    return Text(f"✗ {visible(found.reason)}", style="red")


def _cell(found: RuntimeFinding, control: Control) -> Text:
    from rich.text import Text

    status = found.controls.get(control)
    if status is not None and status.enforced:
        return Text.assemble(("✓ ", "green"), (visible(status.mechanism), "dim"))
    return Text.assemble(("✗ ", "red"), (visible(status.mechanism if status else ""), "dim"))


def mends(findings: Findings) -> list[str]:
    """What would mend what is missing, each command once, with what it is for."""
    gains: dict[str, list[str]] = {}
    for name, found in findings.runtimes.items():
        if found.mend:
            gains.setdefault(found.mend, []).append(name)
        for control, status in found.controls.items():
            if status.mend and not status.enforced:
                gains.setdefault(status.mend, []).append(f"{control} in {name}")
    lines = [f"  {mend}\n      for {', '.join(gained)}" for mend, gained in gains.items()]
    return ["To enforce more:", *lines, ""] if lines else []
