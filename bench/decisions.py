"""What the daemon does for every call before it runs: decide, and write it down."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from pathlib import Path

from mas_sandbox.audit.log import AuditLog
from mas_sandbox.policy.decide import CompiledPolicy, compile_policy
from mas_sandbox.policy.default import DEFAULT_POLICY
from mas_sandbox.policy.model import parse_policy

from .rows import Benchmark, Row, Samples

_OPERATOR = {
    "rules": [
        {
            "name": "no-force-push",
            "action": "deny",
            "tools": "bash",
            "when": {"command": {"glob": "*git push*--force*"}},
            "reason": "a person's decision",
        },
        {
            "name": "no-secrets",
            "action": "deny",
            "tools": ["read_file", "bash"],
            "when": {"path": {"glob": "/workspace/secrets/**"}},
            "reason": "not for agents",
        },
        {
            "name": "large",
            "action": "ask",
            "tools": "*",
            "when": {"count": {">": 1000}},
            "reason": "more than is usual",
        },
    ],
}
_CALL = {"tools": ["bash", "calculator"]}
_ARGS = {"command": "cd project && python3 -m pytest -q tests/unit --maxfail 1"}
_CAPABILITIES = frozenset({"exec", "file"})
_DECISIONS = 2_000
_APPENDS = 64


def compiled() -> CompiledPolicy:
    """Three layers: an operator's with rules on arguments, a sandbox's that is silent, and a
    call's."""
    return compile_policy(
        [
            DEFAULT_POLICY.model_copy(update={"rules": parse_policy(_OPERATOR).rules}),
            parse_policy({}),
            parse_policy(_CALL),
        ]
    )


def decision_us(policy: CompiledPolicy, count: int = _DECISIONS) -> float:
    """Microseconds of one decision, of so many in a row."""
    begun = time.perf_counter()
    for _ in range(count):
        policy.decide("bash", _CAPABILITIES, _ARGS)
    return (time.perf_counter() - begun) / count * 1e6


async def _measure(runs: int) -> Samples:
    policy = compiled()
    decision_us(policy)
    each = [decision_us(policy) for _ in range(2 * runs)]
    samples: dict[str, list[float]] = {
        "policy-decision": each,
        "policy-per-second": [1e6 / us for us in each],
        "sync-alone": [],
        "audit-append": [],
        "audit-per-second": [],
    }
    with tempfile.TemporaryDirectory(prefix="mas-bench-", dir=_on_disk()) as directory:
        log = AuditLog.open(Path(directory))
        beside = os.open(Path(directory) / "beside", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for turn in range(2 * runs):
                samples["sync-alone"].append(_synced(beside))
                samples["audit-append"].append(await _appended(log, turn, 1))
                taken = await _appended(log, turn, _APPENDS)
                samples["audit-per-second"].append(_APPENDS / taken * 1000)
        finally:
            os.close(beside)
            await log.close()
    return samples


def _on_disk() -> str | None:
    """Where daemons keep their state is a disk; the directory for temporary files may not be."""
    return "/var/tmp" if Path("/var/tmp").is_dir() else None  # noqa: S108


def _synced(descriptor: int) -> float:
    begun = time.perf_counter()
    os.write(descriptor, bytes(600))
    os.fdatasync(descriptor)
    return (time.perf_counter() - begun) * 1000


async def _appended(log: AuditLog, turn: int, count: int) -> float:
    """Milliseconds until so many intents, told of at once, are on disk."""
    begun = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(
                log.intent(
                    call_id=f"call_{turn}_{count}_{number}",
                    principal="bench",
                    sandbox_id="",
                    tool="bash",
                    args=_ARGS,
                    decision={"action": "allow", "rule": "operator/tools", "reason": ""},
                    trace={},
                )
            )
    return (time.perf_counter() - begun) * 1000


DECISIONS = Benchmark(
    (
        Row("policy-decision", "us", "one decision: three layers, three rules", goal=30),
        Row("policy-per-second", "1/s", "such decisions"),
        Row("sync-alone", "ms", "write of 600 bytes, and fdatasync, in this directory"),
        Row(
            *("audit-append", "ms", "one intent, until it is on disk"),
            beside=("sync-alone",),
        ),
        Row("audit-per-second", "1/s", f"intents, {_APPENDS} told of at once: one fsync"),
    ),
    _measure,
)
