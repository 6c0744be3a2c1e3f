"""Every way a call can fail, as an exception.

* SandboxError (`.code`, `.message`; shared with the daemon)
  * CallError (`.result`: the reply that reported the failure, where there is one)
    x PolicyDenied            the policy does not allow this call
      · Unauthenticated       the daemon does not know the token, or none was sent
    x PolicyUnenforceable     the policy asks for a control the runtime cannot enforce
    x ApprovalRequired        a rule asks for a person's approval first
    x InvalidRequest          malformed, or arguments that do not fit the tool's schema
    x NotFound                no such tool or sandbox, or it belongs to someone else
      · FileNotFound          nothing lies at that path of the sandbox
    x ToolFailed              the tool ran and reported a failure
      · CommandFailed         `Finished.check`: the program failed (`.finished`)
      · CodeFailed            `Execution.check`: the code failed (`.execution`)
      · FileExists            something lies there already
      · FileForbidden         the policy or the file system does not grant it
      · IsADirectory          a file is needed, and it is a directory
      · NotADirectory         a directory is needed, and it is none
      · DirectoryNotEmpty     it holds something; `recursive` would remove that as well
      · NoSpace               the sandbox's disk is full
      · TooLarge              more than the sandbox takes
    x CallTimeout             the call was ended at its deadline
    x OutputLimit             the call was ended at its output limit
    x OutOfMemory             the call was ended at its memory limit
    x SandboxCrash            the sandbox could not be started, or ended under the call
    x GuestLost               the toolrunner died or stopped answering
    x GuestProtocolError      the toolrunner broke the channel protocol
    x Overloaded              too many calls are waiting (`.retry_after`, seconds)
    x Interrupted             cut off; the call may or may not have had effects
      · DaemonLost            the daemon, or the connection to it, ended under the call
    x IdempotencyConflict     the idempotency key came with another request before
    x ResultNotKept           the call of this key ran once; its result was not kept
    x InternalError           a fault in the daemon itself
      · DaemonUnavailable     no daemon could be reached or started; the call did not run
      · BadReply              what answered does not speak this API

One class for each `ErrorCode` (marked x); those marked · are narrower cases that
the SDK itself finds out. Those of files are `FileError` as well, with the daemon's
`reason`: `except FileError` catches any of them, whatever its code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.api.models import ErrorBody

    from .execution import Execution
    from .finished import Finished
    from .result import ToolResult

__all__ = ["CallError", "FileError", "SandboxError", "error_for", "error_of"]


class CallError(SandboxError):
    """A call without a result."""

    error_code: ClassVar[ErrorCode]

    def __init__(self, message: str, *, result: ToolResult | None = None) -> None:
        super().__init__(self.error_code, message)
        self.result = result


class FileError(SandboxError):
    """Work on a sandbox's files that failed. `reason`: the daemon's word for why."""

    reason: ClassVar[str]


class PolicyDenied(CallError):
    error_code = ErrorCode.POLICY_DENIED


class Unauthenticated(PolicyDenied):
    """HTTP 401."""


class PolicyUnenforceable(CallError):
    error_code = ErrorCode.POLICY_UNENFORCEABLE


class ApprovalRequired(CallError):
    error_code = ErrorCode.APPROVAL_REQUIRED


class InvalidRequest(CallError):
    error_code = ErrorCode.INVALID_REQUEST


class NotFound(CallError):
    error_code = ErrorCode.NOT_FOUND


class FileNotFound(NotFound, FileError):
    reason = "not_found"


class ToolFailed(CallError):
    error_code = ErrorCode.TOOL_FAILED


class FileExists(ToolFailed, FileError):
    reason = "exists"


class FileForbidden(ToolFailed, FileError):
    reason = "permission"


class IsADirectory(ToolFailed, FileError):
    reason = "is_a_directory"


class NotADirectory(ToolFailed, FileError):
    reason = "not_a_directory"


class DirectoryNotEmpty(ToolFailed, FileError):
    reason = "not_empty"


class NoSpace(ToolFailed, FileError):
    reason = "no_space"


class TooLarge(ToolFailed, FileError):
    reason = "too_large"


class CommandFailed(ToolFailed):
    """A program that did not end with 0. `finished`: how it ended, and what it wrote."""

    def __init__(
        self,
        message: str,
        *,
        result: ToolResult | None = None,
        finished: Finished | None = None,
    ) -> None:
        super().__init__(message, result=result)
        self.finished = finished


class CodeFailed(ToolFailed):
    """Code that did not run to its end without an exception. `execution`: how it went."""

    def __init__(
        self,
        message: str,
        *,
        result: ToolResult | None = None,
        execution: Execution | None = None,
    ) -> None:
        super().__init__(message, result=result)
        self.execution = execution


class CallTimeout(CallError):
    error_code = ErrorCode.TIMEOUT


class OutputLimit(CallError):
    error_code = ErrorCode.OUTPUT_LIMIT


class OutOfMemory(CallError):
    error_code = ErrorCode.OUT_OF_MEMORY


class SandboxCrash(CallError):
    error_code = ErrorCode.SANDBOX_CRASH


class GuestLost(CallError):
    error_code = ErrorCode.GUEST_LOST


class GuestProtocolError(CallError):
    error_code = ErrorCode.GUEST_PROTOCOL_ERROR


class Overloaded(CallError):
    """The call did not run. `retry_after`: seconds the daemon asks to wait, where it says."""

    error_code = ErrorCode.OVERLOADED

    def __init__(
        self,
        message: str,
        *,
        result: ToolResult | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, result=result)
        self.retry_after = retry_after


class Interrupted(CallError):
    error_code = ErrorCode.INTERRUPTED


class DaemonLost(Interrupted):
    """The daemon, or the connection to it, ended under the call."""


class IdempotencyConflict(CallError):
    """The call did not run."""

    error_code = ErrorCode.IDEMPOTENCY_CONFLICT


class ResultNotKept(CallError):
    error_code = ErrorCode.RESULT_NOT_KEPT


class InternalError(CallError):
    error_code = ErrorCode.INTERNAL


class DaemonUnavailable(InternalError):
    """No daemon could be reached or started. The call did not run."""


class BadReply(InternalError):
    """What answered does not speak this API; the call may have run."""


BY_CODE: dict[ErrorCode, type[CallError]] = {
    kind.error_code: kind for kind in CallError.__subclasses__()
}


BY_REASON: dict[str, type[CallError]] = {
    kind.reason: kind
    for kind in (
        FileNotFound,
        FileExists,
        FileForbidden,
        IsADirectory,
        NotADirectory,
        DirectoryNotEmpty,
        NoSpace,
        TooLarge,
    )
}


def error_for(code: ErrorCode, message: str, result: ToolResult | None = None) -> CallError:
    """The exception for a code from the table.

    >>> error_for(ErrorCode.TIMEOUT, "ended after 60000 ms")
    CallTimeout('ended after 60000 ms')
    """
    return BY_CODE[code](message, result=result)


def error_of(error: ErrorBody) -> CallError:
    """The exception for an error that the daemon told, by its reason where it has one.

    >>> from mas_sandbox.api.models import ErrorBody
    >>> error_of(ErrorBody(code="tool_failed", message="/a: not found", reason="not_found"))
    FileNotFound('/a: not found')
    """
    kind = BY_REASON.get(error.reason) or BY_CODE[error.code]
    return kind(error.message)
