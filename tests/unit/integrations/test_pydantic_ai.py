"""An agent's tool calls go through the executor, and every failure to whom it concerns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel

from doubles.http_daemon import HttpDaemon
from mas_sandbox.integrations.pydantic_ai import SandboxToolset, model_view
from mas_sandbox.sdk import AsyncClient, CallError, ToolResult
from mas_sandbox.wire.errors import ErrorCode

MODEL_CAN_GO_ON = set(ErrorCode) - {
    ErrorCode.OVERLOADED,
    ErrorCode.POLICY_UNENFORCEABLE,
    ErrorCode.INTERNAL,
}


class ListingDaemon(HttpDaemon):
    """Lists `fail` beside `echo`."""

    def answer(self, request: Any) -> Any:
        response = super().answer(request)
        if request.url.path == "/v1/tools":
            tools = response.json()["tools"]
            response = type(response)(200, json={"tools": [*tools, tools[0] | {"name": "fail"}]})
        return response


def run_one_call(tool: str, args: dict[str, Any], **options: Any) -> tuple[HttpDaemon, list[Any]]:
    """One tool call, then an answer; returns the daemon and what the model saw."""
    daemon = ListingDaemon()

    def script(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            assert {offered.name for offered in info.function_tools} >= {tool}
            return ModelResponse(parts=[ToolCallPart(tool, args)])
        return ModelResponse(parts=[TextPart("done")])

    async def scenario() -> list[Any]:
        async with AsyncClient(transport=daemon.transport()) as client:
            agent = Agent(FunctionModel(script), toolsets=[SandboxToolset(client, **options)])
            run = await agent.run("go")
            assert run.output == "done"
            return [
                part
                for message in run.all_messages()
                if isinstance(message, ModelRequest)
                for part in message.parts[-1:]
            ][1:]

    return daemon, asyncio.run(scenario())


def test_a_call_carries_arguments_policy_sandbox_and_trace() -> None:
    daemon, seen = run_one_call("echo", {"n": 1}, policy={"mem_mb": 64}, sandbox_id="sb_1")
    body = daemon.bodies()[0]
    assert body["tool"] == {"name": "echo", "args": {"n": 1}}
    assert (body["policy"], body["sandbox_id"]) == ({"mem_mb": 64}, "sb_1")
    assert body["trace"]["run_id"]
    assert isinstance(seen[0], ToolReturnPart)
    assert seen[0].content == {"n": 1}


def test_only_the_named_tools_are_offered() -> None:
    with pytest.raises(AssertionError):
        run_one_call("fail", {"code": "timeout"}, only={"echo"})


@pytest.mark.parametrize("code", sorted(MODEL_CAN_GO_ON))
def test_a_failure_the_call_brought_about_goes_back_to_the_model(code: ErrorCode) -> None:
    _, seen = run_one_call("fail", {"code": str(code)})
    assert isinstance(seen[0], ToolReturnPart | RetryPromptPart)
    assert f"{code}: scripted" in str(seen[0].content)


@pytest.mark.parametrize("code", sorted(set(ErrorCode) - MODEL_CAN_GO_ON))
def test_a_failure_no_model_can_mend_ends_the_run(code: ErrorCode) -> None:
    with pytest.raises(CallError) as caught:
        run_one_call("fail", {"code": str(code)})
    assert caught.value.code is code


def test_the_model_sees_exit_code_and_stderr_where_they_say_something() -> None:
    fields = {
        "tool_call_id": "c1",
        "status": "ok",
        "result": "out",
        "exit_code": 0,
        "usage": {"cpu_ms": 0, "mem_mb": 0, "wall_ms": 0},
        "isolation": "process",
        "enforced": [],
    }
    assert model_view(ToolResult.model_validate(fields)) == "out"
    failed = ToolResult.model_validate(fields | {"exit_code": 2, "stderr": "no such file"})
    view = model_view(failed)
    assert (view["exit_code"], view["stderr"]) == (2, "no such file")
