"""The built-in tools as the API describes them."""

from __future__ import annotations

from mas_sandbox.tools.builtin import BUILTIN

from .models import ToolInfo

BUILTIN_TOOLS: tuple[ToolInfo, ...] = tuple(
    ToolInfo(
        name=tool.name,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        capabilities=tuple(sorted(tool.capabilities)),
    )
    for tool in BUILTIN
)
