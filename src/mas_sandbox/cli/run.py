"""`mas-sandbox run`: one tool call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from mas_sandbox.sdk.errors import InvalidRequest
from mas_sandbox.sdk.result import ToolResult

from .chosen import Json, Url, executor
from .screen import complain, show, show_json
from .words import json_object, json_value


def run(
    tool: Annotated[str, Parameter(help="Its name; `mas-sandbox tools` lists them.")],
    /,
    *,
    arg: Annotated[
        tuple[str, ...],
        Parameter(
            name=["--arg", "-a"],
            help="NAME=TEXT, or NAME:=JSON for numbers, lists, true and false. May be repeated.",
        ),
    ] = (),
    json_args: Annotated[
        str | None, Parameter(help="All arguments as a JSON object or @FILE; --arg adds to it.")
    ] = None,
    policy: Annotated[
        str | None, Parameter(help="A policy as JSON or @FILE, to narrow what is allowed.")
    ] = None,
    sandbox_id: Annotated[str | None, Parameter(help="A named sandbox to run in.")] = None,
    idempotency_key: Annotated[
        str | None,
        Parameter(
            help="Run it once: who asks again with the same key within a day, such as after a "
            "lost connection, gets the same answer."
        ),
    ] = None,
    url: Url = None,
    runtime: Annotated[
        str | None, Parameter(help="Start a daemon with this runtime for the call.")
    ] = None,
    policy_file: Annotated[
        Path | None, Parameter(help="Start a daemon with this policy file for the call.")
    ] = None,
    json: Json = False,
) -> int:
    """Run one tool and print its result.

    Output goes to stdout and stderr as the tool wrote it, and the exit status is
    the tool's own; 1 where the call failed.
    """
    args = arguments(arg, json_args)
    narrowing = None if policy is None else json_object(policy, "--policy")
    with executor(url, runtime, policy_file) as chosen:
        result = chosen.execute(
            tool,
            args,
            policy=narrowing,
            sandbox_id=sandbox_id,
            idempotency_key=idempotency_key,
        )
    if json:
        show_json(result.model_dump(mode="json"))
    else:
        _print(result)
    if result.error is None:
        return result.exit_code
    return result.exit_code or 1


def arguments(pairs: tuple[str, ...], json_args: str | None) -> dict[str, Any]:
    """A call's arguments; raises InvalidRequest.

    >>> arguments(("path=a=b", "start_line:=10"), '{"end_line": 20}')
    {'end_line': 20, 'path': 'a=b', 'start_line': 10}
    """
    args = {} if json_args is None else json_object(json_args, "--json-args")
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip(":"):
            raise InvalidRequest(f"--arg {pair!r} is not NAME=TEXT or NAME:=JSON")
        if name.endswith(":"):
            args[name[:-1]] = json_value(text, f"--arg {name}=")
        else:
            args[name] = text
    return args


def _print(result: ToolResult) -> None:
    if isinstance(result.result, str):
        show(result.result, sys.stdout)
    elif result.result is not None:
        show_json(result.result)
    show(result.stderr, sys.stderr)
    if result.truncated:
        complain("the output was cut at the policy's output limit")
    if result.error is not None:
        complain(f"{result.error.code}: {result.error.message}")
