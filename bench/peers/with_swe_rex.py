"""SWE-ReX, local: a shell on a pseudo-terminal, with no wall around it. Fresh: a session
for one command; live: a command in one that stays."""

import asyncio
import logging
import shlex

from loop import serve
from swerex.deployment.local import LocalDeployment
from swerex.runtime.abstract import BashAction, CreateBashSessionRequest

logging.disable(logging.CRITICAL)
_loop = asyncio.new_event_loop()


async def _started() -> LocalDeployment:
    deployment = LocalDeployment()
    await deployment.start()
    await deployment.runtime.create_session(CreateBashSessionRequest())
    return deployment


async def _run(deployment: LocalDeployment, argv: list[str]) -> str:
    action = BashAction(command=shlex.join(argv))
    return (await deployment.runtime.run_in_session(action)).output.replace("\r", "").strip()


async def _once(argv: list[str]) -> str:
    deployment = await _started()
    try:
        return await _run(deployment, argv)
    finally:
        await deployment.stop()


_kept = _loop.run_until_complete(_started())
serve(
    lambda argv: _loop.run_until_complete(_once(argv)),
    lambda argv: _loop.run_until_complete(_run(_kept, argv)),
)
_loop.run_until_complete(_kept.stop())
