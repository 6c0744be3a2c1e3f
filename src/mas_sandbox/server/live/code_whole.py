"""A run in one piece, for whoever does not want it as it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mas_sandbox.api.code import CodeError, CodeResult, Execution
from mas_sandbox.wire import strict_json

if TYPE_CHECKING:
    from .code_run import Run

MAX_TEXT = 1024 * 1024
"""Characters of output that are kept, of each kind."""
MAX_RESULTS = 8 * 1024 * 1024
"""Bytes of results, as JSON."""


async def whole(run: Run) -> Execution:
    """All of a run, once it has ended; of what is too much, the beginning."""
    text = {"stdout": "", "stderr": ""}
    results: list[CodeResult] = []
    exception, truncated, room = None, False, MAX_RESULTS
    while (taken := await run.take()) is not None:
        kind, fields = taken
        match kind:
            case "stdout" | "stderr":
                kept = fields["text"][: MAX_TEXT - len(text[kind])]
                text[kind] += kept
                truncated |= len(kept) < len(fields["text"])
            case "result":
                room -= len(strict_json.dumps(fields))
                if room >= 0:
                    results.append(CodeResult.model_validate({"type": kind, **fields}))
                truncated |= room < 0
            case "exception":
                exception = CodeError.model_validate({"type": kind, **fields})
            case "end":
                ending = fields
    return Execution(
        context_id=run.context_id,
        execution=run.execution,
        stdout=text["stdout"],
        stderr=text["stderr"],
        results=tuple(results),
        exception=exception,
        truncated=truncated,
        **ending,
    )
