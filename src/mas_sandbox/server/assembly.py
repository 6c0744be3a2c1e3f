"""Builds the broker and what it is made of. Importing this takes a while, so `daemon` does it
while the first sandbox comes up."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mas_sandbox.audit.log import AuditLog
from mas_sandbox.tools.builtin import BUILTIN
from mas_sandbox.wire.errors import SandboxError

from .admission import Admission
from .broker import Broker
from .calls import Caller
from .catalog import Catalog
from .extensions import describe
from .plan import Planner
from .registry.store import Store
from .spec import SEARCH_URL
from .walls import Unprobed

if TYPE_CHECKING:
    from mas_sandbox.policy.file import PolicyFile
    from mas_sandbox.policy.model import Policy
    from mas_sandbox.runtimes.base import SandboxSpec
    from mas_sandbox.tools.manifest import ToolSpec

    from .head_start import HeadStartPool
    from .settings import Settings
    from .walls import Walls

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What a front door needs, and what the operator is told at the start."""

    broker: Broker
    local: Caller
    policy_file: PolicyFile | None
    policy_source: str
    audit_path: Path


async def assemble(
    settings: Settings, walls: Walls, pool: HeadStartPool, first: SandboxSpec
) -> Daemon:
    """`pool` is the default wall's; `first`: the sandbox that carries the operator's tools.
    Raises SandboxError."""
    file = None if settings.policy is None else _policy_file(settings.policy)
    local = Caller("local", _default_policy(file, walls.default.name))
    tools = BUILTIN
    if first.extensions:
        tools += await _operators_tools(pool, first)
        if settings.pool == 0:
            pool.begin(first)
    environment = dict(os.environ)
    if settings.search_url:
        environment[SEARCH_URL] = settings.search_url
    planner = Planner(walls, Catalog(tools), environment, first.extensions)
    audit = AuditLog.open(
        settings.state_dir,
        record_args=settings.audit_args,
        max_bytes=settings.audit_max_mb * 1024 * 1024,
        sign_end=settings.listen is not None,
    )
    store = Store(settings.state_dir, audit.instance, audit.is_alive)
    if settings.listen is not None:  # on standard input nobody can name a sandbox
        try:
            store.open()
        except SandboxError:
            await audit.close()
            raise
    if settings.pool:
        try:
            built = planner.sandbox(local.policy, None)
            built.wall.pool.warm(built.spec)
        except Unprobed:
            pass  # stronger walls than the default's are tried when a call asks for them
        except SandboxError as error:  # each call under it is refused, with the same words
            log.warning("the default policy cannot be enforced: %s", error.message)
    broker = Broker(
        walls=walls,
        planner=planner,
        admission=Admission(settings.max_concurrent, settings.max_queue),
        audit=audit,
        store=store,
        quota=settings.quota,
    )
    return Daemon(
        broker=broker,
        local=local,
        policy_file=file,
        policy_source=str(settings.policy or "the built-in default"),
        audit_path=audit.path,
    )


def _policy_file(path: Path) -> PolicyFile:
    from mas_sandbox.policy.file import load_policy_file

    return load_policy_file(path)


def _default_policy(file: PolicyFile | None, runtime: str) -> Policy | None:
    """The policy of callers without a token of their own; None for the shipped one."""
    if file is None or file.default is None:
        return None
    from mas_sandbox.policy.default import completed

    from .layers import base_policy

    return completed(file.default, base_policy(runtime))


async def _operators_tools(pool: HeadStartPool, spec: SandboxSpec) -> tuple[ToolSpec, ...]:
    sandbox = await pool.acquire(spec)
    try:
        return await describe(sandbox, {tool.name for tool in BUILTIN})
    finally:
        pool.release(sandbox)
