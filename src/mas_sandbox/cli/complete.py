"""What a shell proposes: the names of sandboxes and processes that there are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext

_TIMEOUT_S = 2.0
_MOST = 200


def sandbox_ids(context: CompletionContext) -> dict[str, str]:
    """Id -> what it is. A shell shows nothing where this raises."""
    from itertools import islice

    from mas_sandbox.sdk.client import Client

    with Client(_given(context, "url"), _given(context, "token"), timeout=_TIMEOUT_S) as client:
        found = islice(client.sandboxes(states=("running", "paused")), _MOST)
        return {info.sandbox_id: f"{info.state}, {info.runtime}" for info in found}


def places(context: CompletionContext) -> list[str]:
    """What may be copied: paths here, and sandboxes as the beginning of paths in them."""
    found = paths(context)
    if "/" not in context.incomplete:
        found += [f"{name}:" for name in sandbox_ids(context)]
    return found


def paths(context: CompletionContext) -> list[str]:
    """Files and directories here that begin so."""
    from glob import escape, iglob
    from itertools import islice

    found = islice(iglob(escape(context.incomplete) + "*"), _MOST)
    return [path + "/" * Path(path).is_dir() for path in found]


def process_names(context: CompletionContext) -> dict[str, str]:
    """Pid or tag -> what runs, of the sandbox that is named before it."""
    from mas_sandbox.sdk import Sandbox

    sandbox_id = _given(context, "sandbox")
    if not sandbox_id:
        return {}
    url, token = _given(context, "url"), _given(context, "token")
    with Sandbox.connect(sandbox_id, url, token) as sandbox:
        return {
            info.tag or str(info.pid): " ".join(info.argv) or info.cmd
            for info in sandbox.processes.list()
        }


def _given(context: CompletionContext, name: str) -> str | None:
    return context[name].raw
