"""The one table of error codes, shared by the guest, the daemon and the SDK."""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why a call has no result. The value is what crosses every interface."""

    POLICY_DENIED = "policy_denied"
    POLICY_UNENFORCEABLE = "policy_unenforceable"
    APPROVAL_REQUIRED = "approval_required"
    INVALID_REQUEST = "invalid_request"
    NOT_FOUND = "not_found"
    TOOL_FAILED = "tool_failed"
    TIMEOUT = "timeout"
    OUTPUT_LIMIT = "output_limit"
    OUT_OF_MEMORY = "out_of_memory"
    SANDBOX_CRASH = "sandbox_crash"
    GUEST_LOST = "guest_lost"
    GUEST_PROTOCOL_ERROR = "guest_protocol_error"
    OVERLOADED = "overloaded"
    INTERRUPTED = "interrupted"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    RESULT_NOT_KEPT = "result_not_kept"
    INTERNAL = "internal"


MEANING: dict[ErrorCode, str] = {
    ErrorCode.POLICY_DENIED: "the policy does not allow this call",
    ErrorCode.POLICY_UNENFORCEABLE: "the policy asks for a control this runtime cannot enforce",
    ErrorCode.APPROVAL_REQUIRED: "a rule asks for a person's approval first",
    ErrorCode.INVALID_REQUEST: "the request is malformed or its arguments do not fit the schema",
    ErrorCode.NOT_FOUND: "no such sandbox, or it belongs to someone else",
    ErrorCode.TOOL_FAILED: "the tool ran and reported a failure",
    ErrorCode.TIMEOUT: "the call was ended at its deadline",
    ErrorCode.OUTPUT_LIMIT: "the call was ended at its output limit",
    ErrorCode.OUT_OF_MEMORY: "the call was ended at its memory limit",
    ErrorCode.SANDBOX_CRASH: "the sandbox could not be started, or ended under the call",
    ErrorCode.GUEST_LOST: "the toolrunner died or stopped answering",
    ErrorCode.GUEST_PROTOCOL_ERROR: "the toolrunner broke the channel protocol; it was ended",
    ErrorCode.OVERLOADED: "too many calls are waiting; try again later",
    ErrorCode.INTERRUPTED: "the call was cut off; it may or may not have had effects",
    ErrorCode.IDEMPOTENCY_CONFLICT: "the idempotency key is another request's already",
    ErrorCode.RESULT_NOT_KEPT: "the call of this idempotency key ran once; its result was not kept",
    ErrorCode.INTERNAL: "a fault in the daemon itself",
}


class SandboxError(Exception):
    """A failure with a code from the table and a message that says what to do."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"
