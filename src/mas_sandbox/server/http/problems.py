"""Requests that never became calls, as HTTP has it."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..admission import Overloaded
from ..broker import Draining
from ..live.failure import FileError
from ..live.ports import BadGateway
from ..sandboxes import WrongState

STATUS: dict[ErrorCode, int] = {
    ErrorCode.POLICY_DENIED: 403,
    ErrorCode.POLICY_UNENFORCEABLE: 422,
    ErrorCode.APPROVAL_REQUIRED: 403,
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.TOOL_FAILED: 422,
    ErrorCode.TIMEOUT: 504,
    ErrorCode.OUTPUT_LIMIT: 500,
    ErrorCode.OUT_OF_MEMORY: 500,
    ErrorCode.SANDBOX_CRASH: 503,
    ErrorCode.GUEST_LOST: 503,
    ErrorCode.GUEST_PROTOCOL_ERROR: 503,
    ErrorCode.OVERLOADED: 429,
    ErrorCode.INTERRUPTED: 503,
    ErrorCode.IDEMPOTENCY_CONFLICT: 409,
    ErrorCode.RESULT_NOT_KEPT: 410,
    ErrorCode.INTERNAL: 503,
}
"""For an error that a route raises; a call's own failure is inside a 200."""
FILE_STATUS = {
    "not_found": 404,
    "exists": 409,
    "not_empty": 409,
    "is_a_directory": 422,
    "not_a_directory": 422,
    "permission": 403,
    "no_space": 507,
    "too_large": 413,
}
"""For the reason of a FileError."""


class TooSlow(SandboxError):
    """A body that does not arrive. `least`: the bytes a second that it must."""

    def __init__(self, least: int) -> None:
        super().__init__(
            ErrorCode.INVALID_REQUEST,
            f"the body arrives too slowly: {least} bytes a second are the least",
        )


_OWN_STATUS = {Draining: 503, WrongState: 409, TooSlow: 408, BadGateway: 502}


class JsonReply(Response):
    """A body that was encoded by `strict_json`."""

    media_type = "application/json"

    def __init__(self, content: object, status: int = 200, headers: dict[str, str] | None = None):
        super().__init__(strict_json.dumps(content), status, headers)


def problem(
    status: int,
    code: ErrorCode,
    message: str,
    headers: dict[str, str] | None = None,
    reason: str = "",
) -> JsonReply:
    """The body of every 4xx and 5xx: `{"error": {"code", "message"}}`, and `reason` where
    there is one."""
    error = {"code": str(code), "message": message} | ({"reason": reason} if reason else {})
    return JsonReply({"error": error}, status, headers)


def problem_of(error: SandboxError) -> JsonReply:
    """The problem that an error stands for."""
    if isinstance(error, FileError) and error.reason:
        status = FILE_STATUS[error.reason]
        return problem(status, error.code, error.message, reason=error.reason)
    status = _OWN_STATUS.get(type(error), STATUS[error.code])
    headers = None
    if isinstance(error, Overloaded):
        headers = {"retry-after": str(error.retry_after)}
    return problem(status, error.code, error.message, headers)


def refusal(error: Exception) -> JsonReply:
    """The answer to what a route raises so that it is answered in its words."""
    if isinstance(error, SandboxError):
        return problem_of(error)
    assert isinstance(error, HTTPException)
    code = ErrorCode.NOT_FOUND if error.status_code == 404 else ErrorCode.INVALID_REQUEST
    match error.status_code:
        case 404:
            message = "there is nothing here; GET /docs lists the endpoints"
        case 405:
            message = "this endpoint takes another method; GET /docs lists them"
        case _:
            message = error.detail
    return problem(error.status_code, code, message, dict(error.headers or {}))
