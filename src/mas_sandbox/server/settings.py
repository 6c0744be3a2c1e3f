"""The daemon's flags, and what they come to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .registry.quota import MAX_PER_PRINCIPAL, Quota

if TYPE_CHECKING:
    from argparse import ArgumentParser

USAGE_STATUS = 2

_DESCRIPTION = """\
Runs agents' tool calls behind walls. Without -listen it speaks JSON lines:
calls on standard input, answers on standard output."""

_EXAMPLES = """\
examples:
  echo '{"id":1,"tool":"calculator","args":{"expression":"6*7"}}' | mas-sandboxd
  mas-sandboxd -listen :8080
  MAS_SANDBOX_TOKEN=$(openssl rand -hex 32) mas-sandboxd -listen 0.0.0.0:8080
  mas-sandboxd -listen :8080 -policy policy.yaml -tools my_tools.py
  mas-sandboxd -probe          what this host can enforce, as JSON

Every flag may be written with one dash or two."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the operator asked for. `listen` is None in stdio mode."""

    listen: str | None
    runtime: str
    runtime_config: Path | None
    auth_token: str | None
    policy: Path | None
    search_url: str | None
    tools: tuple[Path, ...]
    state_dir: Path
    max_concurrent: int
    max_queue: int
    pool: int
    allowed_hosts: tuple[str, ...]
    ports_domain: str | None
    audit_args: bool
    audit_max_mb: int
    drain_timeout_s: float
    quota: Quota
    log_level: str
    probe: bool
    leftovers: bool


def parse_flags(arguments: Sequence[str]) -> Settings:
    """Ends the process for -help and -version (0) and for wrong usage (2)."""
    given = _parser().parse_args(_two_dashes(arguments))
    return Settings(
        listen=given.listen,
        runtime=given.runtime,
        runtime_config=given.runtime_config,
        auth_token=given.auth_token or os.environ.get("MAS_SANDBOX_TOKEN") or None,
        policy=given.policy,
        search_url=given.search_url,
        tools=tuple(given.tools),
        state_dir=given.state_dir or default_state_dir(),
        max_concurrent=given.max_concurrent or max(4, 2 * (os.cpu_count() or 1)),
        max_queue=given.max_queue,
        pool=given.pool if given.pool is not None else (2 if given.listen else 0),
        allowed_hosts=tuple(given.allowed_host),
        ports_domain=given.ports_domain or os.environ.get("MAS_SANDBOX_PORTS_DOMAIN") or None,
        audit_args=given.audit_args,
        audit_max_mb=given.audit_max_mb,
        drain_timeout_s=given.drain_timeout,
        quota=Quota(given.max_sandboxes, given.quota_cpus, given.quota_mem_mb),
        log_level=given.log_level,
        probe=given.probe,
        leftovers=given.leftovers,
    )


def default_state_dir() -> Path:
    """MAS_SANDBOX_STATE, else /var/lib for root, else the XDG state directory."""
    chosen = os.environ.get("MAS_SANDBOX_STATE")
    if chosen:
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/mas-sandbox")
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "mas-sandbox"


def _two_dashes(arguments: Sequence[str]) -> list[str]:
    """`-listen` as `--listen`. No value of ours begins with a dash and a letter."""
    return [
        f"-{word}" if len(word) > 2 and word[0] == "-" and word[1].isalpha() else word
        for word in arguments
    ]


def _parser() -> ArgumentParser:
    import argparse

    from mas_sandbox import __version__

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            self.exit(USAGE_STATUS, f"mas-sandboxd: {message}; see mas-sandboxd -help\n")

    parser = Parser(
        prog="mas-sandboxd",
        description=_DESCRIPTION,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    add = parser.add_argument
    add(
        "--listen",
        metavar="ADDR",
        help="serve HTTP on ADDR; ':8080' is this machine only unless there is a token",
    )
    add(
        "--runtime",
        metavar="NAME",
        default="auto",
        help="auto, local, jail, gvisor, microvm, or several with commas: a call goes to the "
        "weakest of them that its policy is content with (default auto: the strongest that "
        "works here, never local nor an emulated machine, and what is stronger for calls "
        "that ask for it)",
    )
    add("--runtime-config", metavar="FILE", type=Path, help="settings of microvm")
    add(
        "--auth-token",
        metavar="TOKEN",
        help="what callers must present; better in the "
        "variable MAS_SANDBOX_TOKEN, where other users cannot see it",
    )
    add("--policy", metavar="FILE", type=Path, help="policies and principals (YAML or JSON)")
    add(
        "--search-url",
        metavar="URL",
        help="what web_search asks: the address of a SearXNG, whose host the policy must allow "
        "(default $MAS_SANDBOX_SEARCH_URL)",
    )
    add(
        "--tools",
        metavar="FILE.py",
        type=Path,
        action="append",
        default=[],
        help="your own tools; may be repeated",
    )
    add(
        "--state-dir",
        metavar="DIR",
        type=Path,
        help="where the audit log is kept (default "
        "$MAS_SANDBOX_STATE, else /var/lib/mas-sandbox as root, else "
        "~/.local/state/mas-sandbox)",
    )
    add(
        "--max-concurrent",
        metavar="N",
        type=_count(1),
        help="calls that run at once (default twice the processors, 4 at least)",
    )
    add(
        "--max-queue",
        metavar="N",
        type=_count(0),
        default=1024,
        help="calls that may wait (default 1024)",
    )
    add(
        "--max-sandboxes",
        metavar="N",
        type=_count(1),
        default=MAX_PER_PRINCIPAL,
        help=f"named sandboxes that one principal may have open (default {MAX_PER_PRINCIPAL})",
    )
    add(
        "--quota-cpus",
        metavar="N",
        type=_processors,
        help="processors that one principal's named sandboxes may have together",
    )
    add(
        "--quota-mem-mb",
        metavar="MIB",
        type=_count(16),
        help="memory that one principal's named sandboxes may have together",
    )
    add(
        "--pool",
        metavar="N",
        type=_count(0),
        help="sandboxes kept warm (default 2 for HTTP, 0 for JSON lines)",
    )
    add(
        "--allowed-host",
        metavar="NAME",
        action="append",
        default=[],
        help="a name that HTTP callers may address this daemon by; may be repeated",
    )
    add(
        "--ports-domain",
        metavar="NAME",
        help="give each port of a sandbox a name beneath this one, PORT-SANDBOX.NAME; localhost "
        "will do on one machine (default $MAS_SANDBOX_PORTS_DOMAIN)",
    )
    add(
        "--audit-args",
        action="store_true",
        help="write arguments into the audit log as they are, not only their keyed digest",
    )
    add(
        "--audit-max-mb",
        metavar="MIB",
        type=_count(1),
        default=256,
        help="the audit log goes on in another file when one has this size (default 256)",
    )
    add(
        "--drain-timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long running calls may take to finish on SIGTERM (default 10)",
    )
    add(
        "--log-level",
        metavar="LEVEL",
        default="warning",
        choices=("debug", "info", "warning", "error"),
        help="debug, info, warning, error",
    )
    add("--probe", action="store_true", help="print what this host can enforce, as JSON")
    add("--leftovers", action="store_true", help="print what dead daemons left, as JSON")
    add("--version", action="version", version=f"mas-sandboxd {__version__}")
    add("--help", "-h", action="help", help="this text")
    return parser


class _count:
    """An integer of `least` or more."""

    def __init__(self, least: int) -> None:
        self._least = least
        self.__name__ = f"count ({least} or more)"

    def __call__(self, text: str) -> int:
        value = int(text)
        if value < self._least:
            raise ValueError
        return value


def _processors(text: str) -> float:
    value = float(text)
    if not 0.01 <= value <= 1_000_000:
        raise ValueError
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise ValueError
    return value
