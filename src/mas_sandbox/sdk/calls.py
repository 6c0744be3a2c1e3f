"""What a call looks like on its way out and back: HTTP bodies and JSON lines.

No input or output here, so the synchronous and asynchronous sides share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

from pydantic import BaseModel, ValidationError

from mas_sandbox.policy.model import Policy
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode

from .errors import BadReply, InvalidRequest, Overloaded
from .result import ToolResult

if TYPE_CHECKING:
    from mas_sandbox.api.models import Trace

MAX_LINE_BYTES = strict_json.MAX_BYTES
"""The daemon's bound on one request."""

Body = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class CallOptions(TypedDict, total=False):
    """What may go with a tool and its arguments.

    `sandbox_id`: the sandbox to run in; without it the call gets a fresh one.
    `policy`: narrows what the daemon and the sandbox already allow, never widens it.
    `tool_call_id`: the model's own id of the call, up to 128 of `A-Za-z0-9._:-`.
    `trace`: `run_id` and `step_id` of the agent's run, copied into the audit log.
    `idempotency_key`: up to 255 printable ASCII characters, a UUID say: the call runs once, and
    whoever sends it again with the same key within a day gets the same answer (`replayed`).
    """

    sandbox_id: str | None
    policy: Policy | Mapping[str, Any] | None
    tool_call_id: str | None
    trace: Trace | Mapping[str, str] | None
    idempotency_key: str | None


def http_body(tool: str, args: Mapping[str, Any] | None, options: CallOptions) -> Body:
    """The body of `POST /v1/sandbox/execute`.

    >>> http_body("calculator", {"expression": "1+1"}, {"sandbox_id": "sb_1"})
    {'tool': {'name': 'calculator', 'args': {'expression': '1+1'}}, 'sandbox_id': 'sb_1'}
    """
    extra = plain(options)
    extra.pop("idempotency_key", None)  # it is a header
    return {"tool": {"name": tool, "args": dict(args or {})}} | extra


def line_body(
    call_id: str, tool: str, args: Mapping[str, Any] | None, options: CallOptions
) -> Body:
    """One request line of the stdio protocol; `call_id` is what its reply is known by."""
    extra = plain(options)
    extra.pop("tool_call_id", None)  # it is the line's `id`
    return {"id": call_id, "tool": tool, "args": dict(args or {})} | extra


def encode(body: Body) -> bytes:
    """One request as JSON without a newline in it; raises InvalidRequest."""
    try:
        encoded = strict_json.dumps(body)
    except ValueError as exc:
        raise InvalidRequest(f"{exc}; pass JSON values only") from exc
    if len(encoded) > MAX_LINE_BYTES:
        raise InvalidRequest(
            f"the call is {len(encoded)} bytes of JSON and {MAX_LINE_BYTES} at most are taken; "
            "write large content in several calls"
        )
    return encoded


def decode(model: type[Model], content: bytes | str) -> Model:
    """A reply of the daemon. Fields of a newer daemon are passed over; raises BadReply."""
    try:
        return model.model_validate_json(content, extra="ignore")
    except ValidationError as exc:
        raise _bad_reply(exc) from exc


def decode_line(line: bytes) -> tuple[str | None, ToolResult | Overloaded]:
    """A reply line as (id, how the call ended); raises BadReply."""
    try:
        body = strict_json.loads(line, max_bytes=len(line))
        if not isinstance(body, dict):
            raise BadReply(f"a reply line is not an object: {line[:200]!r}")
        call_id = body.pop("id", None)
        duration_s = body.pop("duration", 0.0)
        body.setdefault("usage", {"cpu_ms": 0, "mem_mb": 0, "wall_ms": 1000 * float(duration_s)})
        body["tool_call_id"] = call_id or ""
        body.setdefault("status", "ok" if body.get("error") is None else "error")
        result = ToolResult.model_validate(body, extra="ignore")
    except (TypeError, ValueError) as exc:
        raise _bad_reply(exc) from exc
    if result.error is not None and result.error.code is ErrorCode.OVERLOADED:
        return call_id, Overloaded(result.error.message, result=result)
    return call_id, result


def plain(options: Mapping[str, object]) -> Body:
    """The options that were given, models as JSON; what a policy does not mention stays out."""
    return {
        name: value.model_dump(mode="json", exclude_unset=True)
        if isinstance(value, BaseModel)
        else value
        for name, value in options.items()
        if value is not None
    }


def _bad_reply(exc: Exception) -> BadReply:
    if isinstance(exc, ValidationError):
        first = exc.errors(include_url=False, include_input=False)[0]
        reason = f"{'.'.join(map(str, first['loc'])) or 'reply'}: {first['msg']}"
    else:
        reason = str(exc)
    return BadReply(
        f"the reply is not one of mas-sandboxd ({reason}); "
        "check the address, and that the daemon and this SDK are of the same version"
    )
