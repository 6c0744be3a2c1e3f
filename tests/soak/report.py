"""What a soak found, for a person and for a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mas_sandbox.audit.verify import Verification

from .gauge import LIMITS, Change
from .ledger import Ledger


@dataclass
class Report:
    """`changes`, `audits`: by daemon; `wrong`: what no other field tells."""

    seed: int
    seconds: float
    ledger: Ledger
    killed: Counter[str]
    changes: Mapping[str, list[Change]]
    audits: Mapping[str, Verification]
    wrong: list[str]

    @property
    def problems(self) -> list[str]:
        """Everything that should not be, in words; none of it is allowed."""
        found = [*self.ledger.wrong, *self.wrong]
        for name, changes in self.changes.items():
            found += [
                f"{name}: {each.name} went from {each.early:g} to {each.late:g}"
                for each in changes
                if not each.flat
            ]
        for name, audit in self.audits.items():
            found += [f"audit log of {name}: {each}" for each in audit.problems]
            if audit.unfinished:
                found.append(f"audit log of {name}: {audit.unfinished} calls without an outcome")
        return found

    @property
    def sound(self) -> bool:
        return not self.problems

    def as_json(self) -> dict[str, Any]:
        ledger = self.ledger
        return {
            "sound": self.sound,
            "seed": self.seed,
            "seconds": self.seconds,
            "calls": {
                "all": ledger.calls,
                "answered": dict(ledger.answered),
                "errors": dict(ledger.refused),
                "abandoned": dict(ledger.abandoned),
                "lost": ledger.lost,
                "duplicated": ledger.duplicated,
                "cross_delivered": ledger.cross_delivered,
                "unexpected": ledger.unexpected,
            },
            "killed": dict(self.killed),
            "usage": {
                name: [asdict(each) | {"ratio": each.ratio, "flat": each.flat} for each in changes]
                for name, changes in self.changes.items()
            },
            "audit": {
                name: {"records": audit.records, "calls": audit.calls, "last": audit.last}
                for name, audit in self.audits.items()
            },
            "problems": self.problems,
        }

    def show(self) -> None:
        from rich.console import Console
        from rich.table import Table

        screen, ledger = Console(), self.ledger
        calls = Table("call", "answered", "abandoned", "errors", title="Calls")
        kinds = sorted({*ledger.answered, *ledger.abandoned, *map(_kind, ledger.refused)})
        for kind in kinds:
            errors = [
                f"{name.rpartition(' ')[2]} {count}"
                for name, count in sorted(ledger.refused.items())
                if _kind(name) == kind
            ]
            counts = (str(ledger.answered[kind]), str(ledger.abandoned[kind]))
            calls.add_row(kind, *counts, ", ".join(errors))
        screen.print(calls)
        usage = Table("daemon", "what", "early", "late", "ratio", "", title="Usage (medians)")
        for name, changes in self.changes.items():
            for each in changes:
                verdict = "flat" if each.flat else "GROWS"
                verdict = verdict if each.name in LIMITS else ""
                numbers = (f"{each.early:g}", f"{each.late:g}", f"{each.ratio:.2f}")
                usage.add_row(name, each.name, *numbers, verdict)
        screen.print(usage)
        killed = ", ".join(f"{count} {name}" for name, count in self.killed.most_common())
        screen.print(f"killed: {killed or 'nothing'}", soft_wrap=True)
        screen.print(
            f"{ledger.calls} calls: {ledger.answered.total()} answered, "
            f"{ledger.refused.total()} errors, {ledger.abandoned.total()} abandoned; "
            f"{ledger.lost} lost, {ledger.duplicated} duplicated, "
            f"{ledger.cross_delivered} cross-delivered, {ledger.unexpected} unexpected errors",
            soft_wrap=True,
        )
        for problem in self.problems[:50]:
            screen.print(problem, style="red", markup=False, soft_wrap=True)
        screen.print(
            f"seed {self.seed}: " + ("sound" if self.sound else f"{len(self.problems)} problems")
        )


def _kind(refused: str) -> str:
    return refused.rpartition(" ")[0]
