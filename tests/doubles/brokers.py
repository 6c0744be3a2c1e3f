"""A broker on a MemoryRuntime, with a real audit log, and what it wrote there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doubles.memory_runtime import MemoryRuntime
from mas_sandbox.audit.log import AuditLog
from mas_sandbox.audit.storage import Storage
from mas_sandbox.runtimes.pool import Pool
from mas_sandbox.server.admission import Admission
from mas_sandbox.server.broker import Broker
from mas_sandbox.server.catalog import Catalog
from mas_sandbox.server.plan import Planner
from mas_sandbox.server.registry.quota import Quota
from mas_sandbox.server.registry.store import Store
from mas_sandbox.server.walls import Wall, Walls
from mas_sandbox.tools.builtin import BUILTIN


@dataclass
class Bench:
    """A running broker and what it stands on."""

    broker: Broker
    runtime: MemoryRuntime
    directory: Path

    def records(self, kind: str = "") -> list[dict[str, Any]]:
        """The audit log, whole or of one kind."""
        lines = (self.directory / "audit.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        return [record for record in records if not kind or record["kind"] == kind]


@asynccontextmanager
async def bench(
    directory: Path,
    runtime: MemoryRuntime | None = None,
    *,
    max_running: int = 4,
    max_queue: int = 16,
    max_sandboxes: int = 32,
    quota: Quota | None = None,
    environment: Mapping[str, str] | None = None,
    storage: Storage | None = None,
    record_args: bool = False,
) -> AsyncIterator[Bench]:
    """A broker that is closed at the end."""
    runtime = runtime or MemoryRuntime()
    walls = Walls([Wall.standing(Pool(runtime, 0), await runtime.probe())])
    audit = AuditLog.open(directory, record_args=record_args, storage=storage)
    broker = Broker(
        walls=walls,
        planner=Planner(walls, Catalog(BUILTIN), environment or {}),
        admission=Admission(max_running, max_queue),
        audit=audit,
        store=Store(directory, audit.instance, audit.is_alive),
        quota=quota or Quota(max_sandboxes),
    )
    try:
        yield Bench(broker, runtime, directory)
    finally:
        await broker.close()
