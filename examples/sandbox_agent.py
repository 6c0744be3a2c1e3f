"""An agent whose tool calls run behind walls.

    python examples/sandbox_agent.py                                # a daemon of its own
    MAS_SANDBOX_URL=http://127.0.0.1:8080 python examples/sandbox_agent.py    # a running one

Where the calls run is the environment's choice alone (`mas_sandbox.sdk.environment`);
the agent is the same. With OPENAI_API_KEY (and OPENAI_BASE_URL, OPENAI_MODEL) that
model decides what to call; without, a script does, and says so.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    TextPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model
from pydantic_ai.models.function import AgentInfo, FunctionModel
from rich.console import Console
from rich.text import Text

from mas_sandbox.integrations.pydantic_ai import SandboxToolset
from mas_sandbox.sdk import AsyncToolExecutor, SandboxError, ToolResult, async_executor_from_env
from mas_sandbox.sdk.environment import mode_from_env

INSTRUCTIONS = (
    "You work in a sandbox, through tools alone. Each tool call gets a fresh, empty workspace. "
    "Compute with the calculator. When a call is denied, say so; do not try to get around it."
)

PROMPTS = {
    "Compute 15 * 8 + 7": "calculator",
    "Which user and which processes does a shell see in there?": "bash",
    "Save the note 'walls hold' as notes/today.md": "write_file",
    "What is in /etc/shadow?": "read_file",
    "Fetch https://example.org with curl": "bash",
}

TOOLS = ["calculator", "bash", "read_file", "write_file"]
POLICY: dict[str, Any] = {
    "tools": TOOLS,
    "timeout_ms": 10_000,
    "rules": [
        {
            "name": "no-downloads",
            "action": "deny",
            "tools": "bash",
            "when": {"command": {"glob": "*curl*"}},
            "reason": "this agent downloads nothing",
        }
    ],
}
"""This agent's own limits. It can only narrow what the daemon's operator allows."""

# A stand-in for a model: one call for each prompt, then an answer from what came back.
SCRIPT: dict[str, tuple[dict[str, Any], str]] = {
    "Compute 15 * 8 + 7": ({"expression": "15 * 8 + 7"}, "15 * 8 + 7 = {}"),
    "Which user and which processes does a shell see in there?": (
        {"command": "id -un 2>/dev/null || id -u; ls /proc | grep -c '^[0-9]'; pwd"},
        "It sees, line by line: its user, how many processes there are, where it is.\n{}",
    ),
    "Save the note 'walls hold' as notes/today.md": (
        {"path": "notes/today.md", "content": "walls hold\n"},
        "Saved: {}",
    ),
    "What is in /etc/shadow?": ({"path": "/etc/shadow"}, "I may not look: {}"),
    "Fetch https://example.org with curl": (
        {"command": "curl -s https://example.org"},
        "I may not fetch it: {}",
    ),
}


def scripted(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """What a model would do, without one."""
    asked = messages[0].parts[-1]
    assert isinstance(asked, UserPromptPart)
    args, answer = SCRIPT[str(asked.content)]
    last = messages[-1]
    if len(messages) == 1 or not isinstance(last, ModelRequest):
        return ModelResponse(parts=[ToolCallPart(PROMPTS[str(asked.content)], args)])
    came_back = last.parts[-1]
    seen = came_back.content if isinstance(came_back, ToolReturnPart) else came_back
    words = seen if isinstance(seen, str) else json.dumps(getattr(seen, "content", seen))
    return ModelResponse(parts=[TextPart(answer.format(words.strip()))])


class Narrator:
    """An executor that tells what goes through it. Everything else it leaves to `inner`."""

    def __init__(self, inner: AsyncToolExecutor, screen: Console) -> None:
        self._inner = inner
        self._screen = screen
        self.allowed = 0
        self.stopped = 0
        self.tools = inner.tools
        self.aclose = inner.aclose

    async def __aenter__(self) -> Narrator:
        return self

    async def __aexit__(self, *ending: object) -> None:
        await self.aclose()

    async def execute(
        self, tool: str, args: Mapping[str, Any] | None = None, **options: Any
    ) -> ToolResult:
        result = await self._inner.execute(tool, args, **options)
        self._tell(tool, args or {}, result)
        return result

    def _tell(self, tool: str, args: Mapping[str, Any], result: ToolResult) -> None:
        call = f"{tool}({', '.join(f'{name}={value!r}' for name, value in args.items())})"
        line = Text("  → ", "dim") + Text(shortened(call), "cyan")
        if result.error is None:
            self.allowed += 1
            line.append("\n    allowed ", "green")
        else:
            self.stopped += 1
            line.append(f"\n    {result.error.code} ", "bold red")
            line.append(printable(result.error.message) + " ", "red")
        took = f"{result.usage.wall_ms:.1f} ms" if result.usage.wall_ms else "never started"
        line.append(f"· isolation {result.isolation} · {took}", "dim")
        self._screen.print(line)


def printable(text: str) -> str:
    """What came out of a sandbox must not steer the terminal."""
    return re.sub(r"[^\n\x20-\x7e\xa0-\uffff]", "?", text)


def shortened(text: str, width: int = 100) -> str:
    flat = printable(" ".join(text.split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"


def chosen_model() -> tuple[Model, str]:
    """The model, and how to introduce it."""
    if not os.environ.get("OPENAI_API_KEY"):
        return FunctionModel(scripted, model_name="scripted"), (
            "a script (no OPENAI_API_KEY is set: the tool calls are real, the thinking is not)"
        )
    from pydantic_ai.models.openai import OpenAIChatModel

    name = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
    return OpenAIChatModel(name), name


async def main(make_executor: Callable[[], AsyncToolExecutor] = async_executor_from_env) -> None:
    screen = Console(highlight=False, emoji=False, soft_wrap=True)
    model, introduction = chosen_model()
    where = {
        "local": "a daemon started for each call",
        "http": f"the daemon at {os.environ.get('MAS_SANDBOX_URL', 'http://127.0.0.1:8080')}",
    }[mode_from_env()]
    screen.print(Text.assemble(("model ", "bold"), introduction))
    screen.print(Text.assemble(("tools ", "bold"), f"through {where}"))

    async with Narrator(make_executor(), screen) as executor:
        toolset = SandboxToolset(executor, only=TOOLS, policy=POLICY)
        agent = Agent(model, instructions=INSTRUCTIONS, toolsets=[toolset])
        for prompt in PROMPTS:
            screen.print()
            screen.print(Text(prompt, "bold"))
            answer = await agent.run(prompt)
            screen.print(Text.assemble(("  ", ""), printable(answer.output).replace("\n", "\n  ")))
    screen.print()
    screen.print(Text(f"{executor.allowed} calls ran, {executor.stopped} were stopped.", "bold"))


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except SandboxError as error:
        sys.exit(f"sandbox_agent: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
