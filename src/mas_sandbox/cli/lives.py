"""`mas-sandbox rm | pause | resume | extend`: how long sandboxes go on."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.sdk.errors import InvalidRequest, NotFound
from mas_sandbox.wire.errors import SandboxError

from .chosen import DaemonUrl, SandboxId, Token
from .complete import sandbox_ids
from .screen import complain, visible
from .words import seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from mas_sandbox.api.sandboxes import State
    from mas_sandbox.sdk.client import Client

Ids = Annotated[str, Parameter(help="Their ids.", completer=sandbox_ids)]


def rm(
    *sandboxes: Ids,
    every: Annotated[bool, Parameter(name="--all", help="All of yours; asks first.")] = False,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], help="Do not ask.")] = False,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """End sandboxes, and all that runs and lies in them."""
    from mas_sandbox.sdk.client import Client

    if every == bool(sandboxes):
        raise InvalidRequest("name the sandboxes that shall end, or give --all")
    with Client(url, token) as client:
        names = sandboxes
        if every:
            living: tuple[State, ...] = ("running", "paused")
            names = tuple(info.sandbox_id for info in client.sandboxes(states=living))
            if names and not yes and not _agreed(f"End {len(names)} sandboxes?"):
                return 1
        return _each(names, client.destroy)


def pause(*sandboxes: Ids, url: DaemonUrl = None, token: Token = None) -> int:
    """Stop everything in sandboxes where it stands. Paused ones do not age."""
    return _change(sandboxes, url, token, lambda client: client.pause)


def resume(*sandboxes: Ids, url: DaemonUrl = None, token: Token = None) -> int:
    """Let paused sandboxes go on."""
    return _change(sandboxes, url, token, lambda client: client.resume)


def extend(
    sandbox: SandboxId,
    timeout: Annotated[str, Parameter(help="From now on: seconds, or such as 15m, 2h, 1d.")],
    /,
    *,
    url: DaemonUrl = None,
    token: Token = None,
) -> int:
    """Let a sandbox live for so long from now on, more or less than before."""
    from mas_sandbox.sdk.client import Client

    with Client(url, token) as client:
        client.extend(sandbox, seconds(timeout))
    print(visible(sandbox))  # noqa: T201 - for scripts
    return 0


def _change(
    names: tuple[str, ...],
    url: str | None,
    token: str | None,
    change: Callable[[Client], Callable[[str], object]],
) -> int:
    from mas_sandbox.sdk.client import Client

    if not names:
        raise InvalidRequest("name a sandbox; `mas-sandbox ls` lists them")
    with Client(url, token) as client:
        return _each(names, change(client))


def _each(names: tuple[str, ...], act: Callable[[str], object]) -> int:
    """What was done is printed; one that failed does not hold up the rest."""
    status = 0
    for name in names:
        try:
            act(name)
        except SandboxError as error:
            if isinstance(error, NotFound) or len(names) > 1:
                complain(f"{name}: {error.message}")
                status = 1
            else:
                raise
        else:
            print(visible(name))  # noqa: T201 - for scripts
    return status


def _agreed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise InvalidRequest("there is nobody to ask; give --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)  # noqa: T201
    return sys.stdin.readline().strip().lower() in ("y", "yes")
