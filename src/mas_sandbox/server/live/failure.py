"""What a sandbox answers to work on its files, as an error that names the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

if TYPE_CHECKING:
    from mas_sandbox.wire.messages import Result


class FileError(SandboxError):
    """`reason`: out of `wire.messages.FILE_REASONS`, empty where there is none to act on."""

    def __init__(self, code: ErrorCode, message: str, reason: str = "") -> None:
        super().__init__(code, message)
        self.reason = reason


def too_large(limit: int) -> FileError:
    return FileError(
        ErrorCode.INVALID_REQUEST, f"this sandbox takes {limit} bytes at most", "too_large"
    )


def check(result: Result) -> None:
    """Raises FileError for a call that failed."""
    if result.code:
        raise FileError(ErrorCode(result.code), result.message, result.reason)


def nonsense(tool: str) -> SandboxError:
    """For an answer that only a toolrunner which is not ours would give."""
    return SandboxError(ErrorCode.GUEST_PROTOCOL_ERROR, f"{tool} answered what makes no sense")
