"""The daemon's tools as a pydantic-ai toolset.

    from pydantic_ai import Agent
    from mas_sandbox.integrations.pydantic_ai import SandboxToolset
    from mas_sandbox.sdk import async_executor_from_env

    async with async_executor_from_env() as executor:
        agent = Agent("openai:gpt-4o-mini", toolsets=[SandboxToolset(executor)])
        print((await agent.run("Compute 15 * 8 + 7")).output)

What becomes of a call that failed:

* `invalid_request`, `not_found`: `ModelRetry`; the model corrects its call.
* denied, timed out, out of memory, failed in any other way that the call itself can
  bring about: `ToolFailed` with the code and the daemon's words; the model sees the
  failure and takes another way, and the run goes on.
* `overloaded`, `policy_unenforceable`, `internal`, and all that the executor raises
  (no daemon, unknown token): the `CallError` ends the run; no model can mend it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from pydantic_ai import ModelRetry, RunContext, ToolFailed
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool
from pydantic_core import SchemaValidator, core_schema

from mas_sandbox.api.models import ErrorBody, ToolInfo
from mas_sandbox.policy.model import Policy
from mas_sandbox.sdk.executors import AsyncToolExecutor
from mas_sandbox.sdk.result import ToolResult
from mas_sandbox.wire.errors import ErrorCode

MAX_RETRIES = 3
"""How often in a row a model may get one tool's arguments wrong."""

_MODEL_CORRECTS = {ErrorCode.INVALID_REQUEST, ErrorCode.NOT_FOUND}
_OWNER_MENDS = {ErrorCode.OVERLOADED, ErrorCode.POLICY_UNENFORCEABLE, ErrorCode.INTERNAL}

# The daemon checks arguments against the tool's schema: one check, one wording.
_ANY_ARGUMENTS = SchemaValidator(core_schema.dict_schema(core_schema.str_schema()))


class SandboxToolset(AbstractToolset[Any]):
    """Tools that run through `executor`, which the caller closes.

    `only`: names to offer, all where it is None; `policy` and `sandbox_id` go with
    every call. The list of tools is fetched once.
    """

    def __init__(
        self,
        executor: AsyncToolExecutor,
        *,
        only: Collection[str] | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        sandbox_id: str | None = None,
        id: str = "mas-sandbox",
    ) -> None:
        self._executor = executor
        self._only = only
        self._policy = policy
        self._sandbox_id = sandbox_id
        self._id = id
        self._tools: dict[str, ToolsetTool[Any]] | None = None

    @property
    def id(self) -> str:
        return self._id

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, ToolsetTool[Any]]:
        if self._tools is None:
            self._tools = {
                info.name: self._described(info)
                for info in await self._executor.tools()
                if self._only is None or info.name in self._only
            }
        return self._tools

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        result = await self._executor.execute(
            name,
            tool_args,
            policy=self._policy,
            sandbox_id=self._sandbox_id,
            trace={"run_id": ctx.run_id or "", "step_id": str(ctx.run_step)},
        )
        if result.error is not None:
            raise _failure(result, result.error)
        return model_view(result)

    def _described(self, info: ToolInfo) -> ToolsetTool[Any]:
        return ToolsetTool(
            toolset=self,
            tool_def=ToolDefinition(
                name=info.name,
                description=info.description,
                parameters_json_schema=info.input_schema,
            ),
            max_retries=MAX_RETRIES,
            args_validator=_ANY_ARGUMENTS,
        )


def model_view(result: ToolResult) -> Any:
    """What the model sees of a call that ran: the bare result where that is all there is."""
    if result.exit_code == 0 and not result.stderr and not result.truncated:
        return result.result
    return {
        "result": result.result,
        "stderr": result.stderr,
        "exit_code": result.exit_code,
        "truncated": result.truncated,
    }


def _failure(result: ToolResult, error: ErrorBody) -> Exception:
    words = f"{error.code}: {error.message}"
    if error.code in _MODEL_CORRECTS:
        return ModelRetry(words)
    if error.code in _OWNER_MENDS:
        result.raise_for_error()
    return ToolFailed(words)
