"""Bodies are parsed by `strict_json`, and what is wrong with one is said in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from mas_sandbox.policy.model import problem_text
from mas_sandbox.wire import strict_json

MAX_FIELDS = 64
MAX_PROBLEMS = 5


class StrictRequest(Request):
    async def json(self) -> Any:
        try:
            value = strict_json.loads(await self.body())
        except ValueError as error:
            raise HTTPException(400, f"the body is refused: {error}") from error
        _check_width(value)
        return value


def _check_width(value: Any) -> None:
    """No body and no policy has this many fields; each unknown one costs an error text."""
    for each in (value, value.get("policy") if isinstance(value, dict) else None):
        if isinstance(each, dict) and len(each) > MAX_FIELDS:
            raise HTTPException(400, f"{len(each)} fields where {MAX_FIELDS} are too many")


def explain(problems: Sequence[Mapping[str, Any]]) -> str:
    """The first few of a validation's problems: `policy.mem_mb: what is wrong`."""
    texts = [
        f"{'.'.join(map(str, each['loc'][1:])) or 'the body'}: {problem_text(each['msg'])}"
        for each in problems[:MAX_PROBLEMS]
    ]
    more = len(problems) - MAX_PROBLEMS
    return "; ".join(texts) + (f"; and {more} more" if more > 0 else "")
