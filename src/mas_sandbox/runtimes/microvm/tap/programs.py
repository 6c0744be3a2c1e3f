"""The host's own tools for its network, ip(8) and nft(8): what is said to them, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

from mas_sandbox.wire.errors import ErrorCode, SandboxError

TIMEOUT_S = 10.0
Route = dict[str, Any]
"""As ip-route(8) tells it: `dst`, `dev`, `type` where it is not unicast, `nexthops`."""
_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"


def ip(*lines: str) -> None:
    """Carry out lines of ip(8), stopping at the first that fails. Raises SandboxError."""
    _run("ip", ("-batch", "-"), "\n".join(lines))


def ip_json(*arguments: str) -> list[dict[str, Any]]:
    """What ip(8) lists. Raises SandboxError."""
    said = _run("ip", ("-json", *arguments))
    # An interface that a filter leaves out is an empty object.
    return [each for each in json.loads(said or "[]") if each]


def routes() -> list[Route]:
    """The host's IPv4 routes, of all tables. Raises SandboxError."""
    return ip_json("-4", "route", "show", "table", "all")


def nft(text: str) -> None:
    """Carry out a script of nft(8): all of it, or nothing. Raises SandboxError."""
    _run("nft", ("-f", "-"), text)


def nft_json(*arguments: str) -> list[dict[str, Any]]:
    """What nft(8) lists, each object under its kind. Raises SandboxError."""
    listed = json.loads(_run("nft", ("-j", "list", *arguments)) or "{}")
    return [each for each in listed.get("nftables", []) if "metainfo" not in each]


def _run(name: str, arguments: tuple[str, ...], stdin: str = "") -> str:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM}")
    if path is None:
        package = {"ip": "iproute2", "nft": "nftables"}[name]
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"{name} is not installed; run: apt-get install {package}"
        )
    try:
        done = subprocess.run(
            [path, *arguments], input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S,
            env={}, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{name} could not be run: {error}") from error
    if done.returncode != 0:
        said = done.stderr.strip()[-500:] or f"status {done.returncode}"
        raise SandboxError(ErrorCode.SANDBOX_CRASH, f"{name} refused: {said}")
    return done.stdout
