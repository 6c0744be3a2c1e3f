"""A call in a sandbox that lives, and the daemon's own part of one."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from mas_sandbox.sdk import AsyncClient, AsyncSandbox

from .cases import CALCULATOR, ECHO
from .events import Connection, connected
from .peers.driven import driven
from .peers.install import PEERS
from .places import Place, bare, daemon
from .rows import Absent, Benchmark, Row, Samples
from .turns import Take, blocking, in_turns, timed

TOOLS = str(Path(__file__).with_name("noop_tools.py"))
_THINKING_S = 0.02
"""Between two calls: the toolrunner prepares the next process when it is idle."""
_LIVE_PEERS = ("llm-sandbox", "swe-rex")


async def _measure(runs: int) -> Samples:
    async with AsyncExitStack() as undo:
        takes: dict[str, Take | Absent] = dict(await ours(undo))
        for peer in PEERS:
            if peer.name in _LIVE_PEERS:
                found = await undo.enter_async_context(driven(peer))
                takes[f"{peer.name}-live"] = (
                    found
                    if isinstance(found, Absent)
                    else found.takes([*ECHO.argv], ECHO.said, live=True)
                )
        return await in_turns(takes, 5 * runs, warm_up=5, pause_s=_THINKING_S)


async def ours(undo: AsyncExitStack) -> dict[str, Take]:
    """What is ours of the rows, and the floor."""
    place = await undo.enter_async_context(daemon("jail", 0, "-tools", TOOLS))
    floor = await undo.enter_async_context(bare())
    client = await undo.enter_async_context(AsyncClient(place.url, place.token))
    to_floor = await undo.enter_async_context(AsyncClient(floor.url, floor.token))
    room = await undo.enter_async_context(await AsyncSandbox.create(place.url, place.token))

    def call(tool: str, args: dict[str, Any], answered_by: AsyncClient = client) -> Take:
        return timed(lambda: answered_by.execute(tool, args, sandbox_id=room.id))

    raw = {"tool": {"name": CALCULATOR.tool, "args": CALCULATOR.args}, "sandbox_id": room.id}
    return {
        "bare-route": call(CALCULATOR.tool, CALCULATOR.args, to_floor),
        "live-calculator": call(CALCULATOR.tool, CALCULATOR.args),
        "live-bash": call(ECHO.tool, ECHO.args),
        "live-noop": call("noop", {}),
        "refused": call("refused", {}),
        "bare-route-bytes": _bytes(floor, raw, undo),
        "live-calculator-bytes": _bytes(place, raw, undo),
    }


def _bytes(place: Place, body: dict[str, Any], undo: AsyncExitStack) -> Take:
    """The same call by a client that parses nothing."""
    connection: Connection = undo.enter_context(connected(place))
    return blocking(lambda: connection.answered("/v1/sandbox/execute", json.dumps(body).encode()))


CALLS = Benchmark(
    (
        Row("bare-route", "ms", "a Starlette route that answers as a call does; the SDK's client"),
        Row(
            *("live-calculator", "ms", "`calculator` in a live jail, over HTTP"),
            beside=("bare-route",),
        ),
        Row(
            *("live-bash", "ms", "`bash -c 'echo hi'` in a live jail, over HTTP"),
            beside=("bare-route", "llm-sandbox-live", "swe-rex-live"),
        ),
        Row(
            *("live-noop", "ms", "an operator's tool that does nothing, in a live jail"),
            beside=("bare-route",),
        ),
        Row(
            *("refused", "ms", "a call refused by its policy: the daemon alone, and its records"),
            beside=("bare-route",),
        ),
        Row("bare-route-bytes", "ms", "the Starlette route, a client that parses nothing"),
        Row(
            *("live-calculator-bytes", "ms", "`calculator` in a live jail, by such a client"),
            beside=("bare-route-bytes",),
        ),
        Row("llm-sandbox-live", "ms", "`echo hi` in an llm-sandbox session that stays"),
        Row("swe-rex-live", "ms", "`echo hi` in a SWE-ReX shell that stays (no wall)"),
    ),
    _measure,
)
