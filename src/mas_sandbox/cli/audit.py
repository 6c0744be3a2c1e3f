"""`mas-sandbox audit`: what was decided, what came of it, and whether the log is whole."""

from __future__ import annotations

import dataclasses
import json as json_text
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from mas_sandbox.sdk.errors import InvalidRequest, NotFound

from .chosen import Json
from .screen import console, show_json, visible

if TYPE_CHECKING:
    from rich.text import Text

    from mas_sandbox.audit.checkpoints import Checkpoint
    from mas_sandbox.audit.verify import Problem, Verification

StateDir = Annotated[
    Path | None,
    Parameter(help="The daemon's -state-dir; its default where this is left out."),
]

EXAMPLES = """\
Examples:
  mas-sandbox audit tail -n 50
  mas-sandbox audit tail -f --json | grep policy_denied
  mas-sandbox audit verify
  mas-sandbox audit verify --head 3f1c...
  mas-sandbox audit checkpoint > /mnt/elsewhere/checkpoint.json
  mas-sandbox audit verify --checkpoint /mnt/elsewhere/checkpoint.json \\
      --public-key /mnt/elsewhere/audit-signing.pub"""

audit = App(name="audit", help_format="plaintext", help_epilogue=EXAMPLES)


@audit.command
def tail(
    *,
    count: Annotated[int, Parameter(name=["--count", "-n"], help="How many records.")] = 20,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], help="Wait for more.")] = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> int:
    """Show the last records, oldest first. Nothing is verified here."""
    from mas_sandbox.audit import read

    path = log_file(state_dir)
    records = read.follow(path, count) if follow else read.tail(path, count)
    if json:
        for record in records:
            print(json_text.dumps(record), flush=True)  # noqa: T201 - one document a line
    else:
        _print(records)
    return 0


@audit.command
def verify(
    *,
    head: Annotated[
        str | None, Parameter(help="A head noted earlier, which must still be in the log.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        Parameter(help="Checkpoints, one or more: their records must still be in the log."),
    ] = None,
    public_key: Annotated[
        Path | None,
        Parameter(
            help="What checks their signatures, audit-signing.pub: a copy that was kept "
            "elsewhere. The one beside the log where this is left out."
        ),
    ] = None,
    partial: Annotated[
        bool, Parameter(help="The oldest files of the log may have been removed.")
    ] = False,
    state_dir: StateDir = None,
    json: Json = False,
) -> int:
    """Check that every record is unchanged and in its place.

    Exit status 0 where it is, else 1. That records were cut from the end, or the whole log
    made anew, shows only against a head or a checkpoint that was kept elsewhere.
    """
    from mas_sandbox.audit.verify import Problem
    from mas_sandbox.audit.verify import verify as verified

    path = log_file(state_dir)
    checkpoints, wrong = _checkpoints(path, checkpoint, public_key)
    found = verified(path, head, checkpoints, partial=partial)
    found.problems += [Problem(0, reason) for reason in wrong]
    if json:
        show_json(dataclasses.asdict(found) | {"ok": found.ok})
    else:
        for line in verdict(found):
            console().print(line, soft_wrap=True)
    return 0 if found.ok else 1


@audit.command
def checkpoint(*, state_dir: StateDir = None) -> int:
    """Sign the log as it is now, and print the checkpoint: keep it where the log's writer
    cannot reach.

    Checks the log first, against the checkpoints beside it as well, and signs nothing but a
    sound one. Run it as the daemon's user: the key is that user's.
    """
    from mas_sandbox.audit import checkpoints, signing
    from mas_sandbox.audit.verify import verify as verified

    path = log_file(state_dir)
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise InvalidRequest(f"the log is written by uid {owner}; run this as that user")
    beside = path.with_name(checkpoints.CHECKPOINTS_NAME)
    public = path.with_name(signing.PUBLIC_NAME)
    earlier, wrong = _checkpoints(path, beside if beside.exists() else None, public)
    found = verified(path, None, earlier, partial=True)
    if found.problems or wrong or not found.records:
        raise InvalidRequest(
            "nothing was signed: the log or its checkpoints are not what was written, or there "
            f"is no record yet; see mas-sandbox audit verify --checkpoint {beside}"
        )
    print(checkpoints.sign(path, found.last, found.head).encode().decode(), end="")  # noqa: T201
    return 0


def _checkpoints(
    log: Path, file: Path | None, public_key: Path | None
) -> tuple[list[Checkpoint], list[str]]:
    """Those of a file whose signatures hold, and what is wrong with the others."""
    from mas_sandbox.audit import checkpoints, signing

    if file is None:
        return [], []
    try:
        key = signing.public_key(public_key or log.with_name(signing.PUBLIC_NAME))
        return checkpoints.read(file, key)
    except OSError as exc:
        raise NotFound(f"{exc.filename} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise InvalidRequest(str(exc)) from exc


def log_file(state_dir: Path | None) -> Path:
    """Where the daemon writes; raises NotFound when there is no log, or none we may read."""
    from mas_sandbox.audit.log import LOG_NAME
    from mas_sandbox.server.settings import default_state_dir

    path = (state_dir or default_state_dir()) / LOG_NAME
    try:
        path.open("rb").close()
    except OSError as exc:
        raise NotFound(
            f"no audit log can be read at {path} ({exc.strerror}); "
            "give the daemon's -state-dir as --state-dir, or read it as the daemon's user"
        ) from exc
    return path


def _print(records: Iterable[dict[str, Any]]) -> None:
    screen = console()
    for record in records:
        screen.print(described(record), soft_wrap=True)


def described(record: dict[str, Any]) -> Text:
    """One record as a line. It may be damaged, so nothing in it is taken for granted."""
    from rich.text import Text

    decision = record.get("decision")
    decided = decision if isinstance(decision, dict) else {}
    words = [
        (_cell(record, "time", 24), "dim"),
        (_cell(record, "kind", 9), ""),
        (_cell(record, "call_id", 12, last=True), "dim"),
    ]
    match record.get("kind"):
        case "intent":
            action = str(decided.get("action"))
            words += [
                (_cell(record, "tool", 12), "cyan"),
                (visible(action).ljust(7), "green" if action == "allow" else "bold red"),
                (f"by {decided.get('rule')} for {record.get('principal')}", ""),
            ]
        case "outcome":
            code = str(record.get("code") or "ok")
            words += [
                (visible(code).ljust(20), "green" if code == "ok" else "red"),
                (f"exit {record.get('exit_code')}, {record.get('wall_ms')} ms, ", "dim"),
                (f"isolation {record.get('isolation')}", "dim"),
            ]
        case "connection":
            action = str(decided.get("action"))
            words += [
                (f"{record.get('protocol')} {record.get('host')}:{record.get('port')}", "cyan"),
                (action.ljust(7), "green" if action == "allow" else "bold red"),
                (f"by {decided.get('rule')} for {record.get('principal')}", ""),
            ]
        case "sandbox":
            words += [
                (f"{record.get('action')} {record.get('sandbox_id')}", "cyan"),
                (f"{record.get('reason')} for {record.get('principal')}".strip(), ""),
            ]
        case "damaged":
            words.append((str(record.get("text")), "red"))
    return Text(" ").join(Text(visible(word), style) for word, style in words)


def _cell(record: dict[str, Any], name: str, width: int, *, last: bool = False) -> str:
    text = visible(str(record.get(name, "")))
    return (text[-width:] if last else text[:width]).ljust(width)


def verdict(found: Verification) -> list[Text]:
    """What was found, in words."""
    from rich.text import Text

    counts = (
        f"{found.records} records, {found.calls} calls, "
        f"{found.interrupted} interrupted, {found.unfinished} unfinished"
    )
    if found.ok:
        return [
            Text.assemble(("✓ the log is whole: ", "green"), counts),
            Text(f"  head {found.head}", "dim"),
            *(_signed(found)),
        ]
    return [
        Text.assemble(("✗ the log is not what was written: ", "bold red"), counts),
        *(Text(f"  {visible(_place(each) + each.reason)}", "red") for each in found.problems),
    ]


def _signed(found: Verification) -> list[Text]:
    from rich.text import Text

    if not found.checkpoints:
        return []
    text = f"  {found.checkpoints} checkpoints hold, up to record {found.signed} of {found.last}"
    return [Text(text, "green")]


def _place(problem: Problem) -> str:
    return f"{problem.file}, line {problem.line}: " if problem.line else ""
