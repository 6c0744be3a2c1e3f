"""`mas-sandbox create`: a sandbox to live in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from mas_sandbox.api.sandboxes import OnTimeout

from .chosen import DaemonUrl, Json, Token
from .screen import show_json, visible
from .words import json_object, pairs, seconds

if TYPE_CHECKING:
    from mas_sandbox.sdk import SandboxOptions


@dataclass(frozen=True)
class Asked:
    """What a new sandbox shall be."""

    runtime: Annotated[str | None, Parameter(help="With this one and no other.")] = None
    min_isolation: Annotated[
        str | None, Parameter(help="Walls of this strength at least: process, kernel or vm.")
    ] = None
    image: Annotated[
        str | None, Parameter(help="What a microvm is made from: current, or a digest.")
    ] = None
    policy: Annotated[
        str | None, Parameter(help="A policy as JSON or @FILE, to narrow what is allowed in it.")
    ] = None
    env: Annotated[
        tuple[str, ...],
        Parameter(name=["--env", "-e"], help="NAME=VALUE for all that runs in it; repeat."),
    ] = ()
    metadata: Annotated[
        tuple[str, ...],
        Parameter(name=["--metadata", "-m"], help="KEY=VALUE to find it by; may be repeated."),
    ] = ()
    timeout: Annotated[
        str | None, Parameter(help="How long it may live: seconds, or such as 15m, 2h, 1d.")
    ] = None
    idle_timeout: Annotated[
        str | None, Parameter(help="How long it may be left unused; 10m where left out.")
    ] = None
    on_timeout: Annotated[
        OnTimeout | None, Parameter(help="What becomes of it when either time is over.")
    ] = None

    def options(self) -> SandboxOptions:
        """As the SDK takes them; raises InvalidRequest."""
        return {
            "runtime": self.runtime,
            "min_isolation": self.min_isolation,
            "image": self.image,
            "policy": json_object(self.policy, "--policy") if self.policy else None,
            "env": pairs(self.env, "--env") or None,
            "metadata": pairs(self.metadata, "--metadata") or None,
            "timeout_s": seconds(self.timeout) if self.timeout else None,
            "idle_timeout_s": seconds(self.idle_timeout) if self.idle_timeout else None,
            "on_timeout": self.on_timeout,
        }


def create(
    *,
    asked: Annotated[Asked, Parameter(name="*")] = Asked(),
    url: DaemonUrl = None,
    token: Token = None,
    json: Json = False,
) -> int:
    """Start a sandbox and print its id."""
    from mas_sandbox.sdk.client import Client

    with Client(url, token) as client:
        info = client.open_sandbox(**asked.options())
    if json:
        show_json(info.model_dump(mode="json"))
    else:
        print(visible(info.sandbox_id))  # noqa: T201 - alone on its line, for scripts
    return 0
