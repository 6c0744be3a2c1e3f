"""How a call ended, as the SDK hands it out."""

from __future__ import annotations

from typing import Self

from mas_sandbox.api.models import ExecuteReply

from .errors import error_for


class ToolResult(ExecuteReply):
    """An `ExecuteReply` that can be turned into an exception.

    `execute` *returns* whatever the daemon decided or ran, a failed call included,
    and *raises* only where the request never became a call (daemon unreachable,
    token unknown, queue full). `raise_for_error` makes an exception of the rest:

        total = client.execute("calculator", {"expression": "15 * 8 + 7"})
        total.raise_for_error().result   # 127, or PolicyDenied, CallTimeout, ...

    A program's non-zero `exit_code` is data, not an error.
    """

    @property
    def ok(self) -> bool:
        """Whether the call has a result."""
        return self.error is None

    def raise_for_error(self) -> Self:
        """This result; raises the `CallError` of its error code when the call failed."""
        if self.error is None:
            return self
        raise error_for(self.error.code, self.error.message, self)
