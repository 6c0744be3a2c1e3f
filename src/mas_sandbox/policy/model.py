"""The policy: what calls may do, and how much of it.

In every field None means "never mentioned", which inherits from the layer above;
an empty list means "nothing". See docs/policy.md for the operator's view.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)

from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.isolation import Isolation

from .glob import slow_pieces
from .go_spelling import translated
from .grants import MAX_GRANTS, AbsolutePath, NetworkPolicy, PathGrant, covering
from .rules import Action, Condition, Operator, Rule, ToolName
from .tool_isolation import ToolIsolation, stronger

__all__ = [
    "Action",
    "Condition",
    "NetworkPolicy",
    "Operator",
    "PathGrant",
    "Policy",
    "Rule",
    "explain",
    "parse_policy",
]

MAX_RULES = 128
MAX_RULES_TEXT = 65_536
"""Characters in all conditions of one policy, so that a compiled policy stays small."""
MAX_SLOW_GLOBS = 8
"""Glob pieces with `?` between two `*`, in one policy: each costs a step per character."""

CapabilityName = Literal["file", "network", "exec", "unsafe"]
"""The closed set of `tools.manifest.Capability`, which this room cannot import."""

# What decides which code a program loads, or how the sandbox itself is built.
_RESERVED_PREFIXES = ("LD_", "DYLD_", "PYTHON", "GLIBC_", "MALLOC_", "BASH_FUNC_", "MAS_SANDBOX")
_RESERVED_NAMES = frozenset(
    {"PATH", "ENV", "BASH_ENV", "SHELLOPTS", "BASHOPTS", "IFS", "GCONV_PATH", "LOCPATH"}
    | {"NODE_OPTIONS", "PERL5OPT", "PERL5LIB", "RUBYOPT", "RUBYLIB", "JAVA_TOOL_OPTIONS"}
    | {"CDPATH", "HOSTALIASES", "NLSPATH", "PROMPT_COMMAND", "PS4"}
)


def _grantable(name: str) -> str:
    if name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIXES):
        raise ValueError(
            f"{name} steers how programs are loaded; the sandbox sets it, not a policy"
        )
    return name


EnvName = Annotated[
    str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$"), AfterValidator(_grantable)
]


class Policy(BaseModel):
    """What calls may do. Frozen and hashable.

    `env`: names of variables whose values come from the daemon's environment;
    `cpus`: processors' worth of time; `cpu_ms`: processor time of one call; `mem_mb`,
    `disk_mb`, `io_mb_s`: MiB; `disk_files`: files in scratch space; `nofile`: open files
    of a process; `bandwidth_kb_s`: KiB a second; `output_bytes`: stdout, stderr and value
    together; `tool_isolation`: stronger walls for single tools than `min_isolation`.
    The Go SDK's field names are understood as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tools: tuple[ToolName, ...] | None = Field(default=None, max_length=1024)
    capabilities: tuple[CapabilityName, ...] | None = Field(default=None, max_length=4)
    paths: tuple[PathGrant, ...] | None = Field(default=None, max_length=MAX_GRANTS)
    env: tuple[EnvName, ...] | None = Field(default=None, max_length=MAX_GRANTS)
    network: NetworkPolicy | None = None
    timeout_ms: Annotated[int, Strict(), Field(ge=1, le=86_400_000)] | None = None
    cpus: Annotated[float, Strict(), Field(ge=0.01, le=1024, allow_inf_nan=False)] | None = None
    cpu_ms: Annotated[int, Strict(), Field(ge=1, le=86_400_000)] | None = None
    mem_mb: Annotated[int, Strict(), Field(ge=16, le=16_777_216)] | None = None
    pids: Annotated[int, Strict(), Field(ge=4, le=4_194_304)] | None = None
    nofile: Annotated[int, Strict(), Field(ge=16, le=1_048_576)] | None = None
    disk_mb: Annotated[int, Strict(), Field(ge=1, le=16_777_216)] | None = None
    disk_files: Annotated[int, Strict(), Field(ge=16, le=1_000_000_000)] | None = None
    io_mb_s: Annotated[int, Strict(), Field(ge=1, le=1_048_576)] | None = None
    iops: Annotated[int, Strict(), Field(ge=1, le=100_000_000)] | None = None
    bandwidth_kb_s: Annotated[int, Strict(), Field(ge=1, le=1_073_741_824)] | None = None
    output_bytes: Annotated[int, Strict(), Field(ge=0, le=67_108_864)] | None = None
    max_concurrent: Annotated[int, Strict(), Field(ge=1, le=100_000)] | None = None
    min_isolation: Isolation | None = None
    tool_isolation: ToolIsolation | None = None
    workdir: AbsolutePath | None = None
    rules: tuple[Rule, ...] | None = Field(default=None, max_length=MAX_RULES)

    @model_validator(mode="before")
    @classmethod
    def _go_spelling(cls, value: Any) -> Any:
        return translated(value) if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        paths = self.paths or ()
        if len({grant.path for grant in paths}) != len(paths):
            raise ValueError("'paths' grants the same path twice; keep one")
        if self.workdir and self.paths is not None and not covering(self.workdir, paths):
            raise ValueError(f"'workdir' {self.workdir} is not beneath any of 'paths'")
        _check_rules(self.rules or ())
        return self

    def isolation_for(self, tool: str) -> Isolation | None:
        """The weakest walls that a call of `tool` may run behind; None for any."""
        asked = self.min_isolation
        for name, level in self.tool_isolation or ():
            if name in (tool, "*"):
                asked = stronger(asked, level)
        return asked

    @property
    def granted_tools(self) -> tuple[str, ...] | None:
        """`tools`, or where only allow rules speak of tools, those that they name."""
        if self.tools is not None:
            return self.tools
        allowing = [rule.tools for rule in self.rules or () if rule.action is Action.ALLOW]
        return tuple(dict.fromkeys(itertools.chain(*allowing))) if allowing else None


def _check_rules(rules: tuple[Rule, ...]) -> None:
    names = [rule.name for rule in rules if rule.name]
    if len(set(names)) != len(names):
        raise ValueError("'rules' has the same name twice; a decision could not be traced")
    conditions = [condition for rule in rules for condition in rule.when]
    text = sum(len(condition.argument) + len(condition.operand) for condition in conditions)
    if text > MAX_RULES_TEXT:
        raise ValueError(f"'rules' compares with {text} characters; {MAX_RULES_TEXT} at most")
    globs = [condition.value for condition in conditions if condition.operator is Operator.GLOB]
    if (slow := sum(map(slow_pieces, globs))) > MAX_SLOW_GLOBS:
        raise ValueError(
            f"'rules' looks for a piece with '?' between two '*' {slow} times; "
            f"{MAX_SLOW_GLOBS} at most"
        )


def parse_policy(value: object, what: str = "policy") -> Policy:
    """A policy from decoded JSON. Raises SandboxError(invalid_request) naming the field."""
    try:
        return Policy.model_validate(value)
    except ValidationError as error:
        raise SandboxError(ErrorCode.INVALID_REQUEST, f"{what}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """The first few problems of a pydantic error in one line: `field: what is wrong`."""
    problems = [
        f"{'.'.join(map(str, problem['loc'])) or 'the whole'}: {problem_text(problem['msg'])}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    ]
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    return "; ".join(problems[:5]) + more


def problem_text(message: str) -> str:
    """Pydantic's words, in the project's own where those are clearer."""
    if message == "Extra inputs are not permitted":
        return "unknown field"
    return message.removeprefix("Value error, ")
