"""Which of the host's interfaces must forward packets for our machines, and no longer.

The kernel forwards what comes in at an interface whose `forwarding` is set (its
Documentation/networking/ip-sysctl.rst), so what answers a machine needs it where it
arrives. An interface that had it off is written into our table before it is turned on:
rules there hold it to our devices, and who finds the table can turn it off again.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from ipaddress import IPv4Network

from ...ownership import PREFIX
from . import programs, rules
from .device import setting


def towards(routes: list[programs.Route], blocks: Iterable[IPv4Network]) -> set[str]:
    """The interfaces by which there are routes into these blocks."""
    wanted = list(blocks)
    found: set[str] = set()
    for route in routes:
        target = "0.0.0.0/0" if route["dst"] == "default" else route["dst"]
        if route.get("type", "unicast") == "unicast" and any(
            block.overlaps(IPv4Network(target)) for block in wanted
        ):
            ways = [route, *route.get("nexthops", ())]
            found |= {way["dev"] for way in ways if "dev" in way}
    return found - {"lo"}


def turn_on(table: str, interfaces: Iterable[str]) -> set[str]:
    """Let these forward; which of them did not, or only for another daemon of ours.

    Raises SandboxError; OSError.
    """
    others = _raised_by_others(table)
    raised = {name for name in interfaces if name in others or _value(name) == "0"}
    if raised:
        programs.nft(rules.raise_interfaces(table, sorted(raised)))
        for name in raised:
            setting(f"ipv4/conf/{name}/forwarding").write_text("1")
    return raised


def turn_off(table: str, raised: Iterable[str]) -> None:
    """Undo `turn_on`, but for what another daemon needs. Raises SandboxError.

    `raised`: what is known to be, beside what the table has written down.
    """
    written = _sets().get(table, set())
    for name in {*raised, *written} - _raised_by_others(table):
        with suppress(OSError):  # the interface is gone
            setting(f"ipv4/conf/{name}/forwarding").write_text("0")


def _raised_by_others(table: str) -> set[str]:
    return {name for owner, names in _sets().items() if owner != table for name in names}


def _sets() -> dict[str, set[str]]:
    """Table of a daemon of ours -> the interfaces in its set `raised`."""
    sets = [each["set"] for each in programs.nft_json("sets", "inet")]
    return {
        each["table"]: set(each.get("elem", ()))
        for each in sets
        if each["name"] == "raised" and each["table"].startswith(PREFIX)
    }


def _value(name: str) -> str:
    return setting(f"ipv4/conf/{name}/forwarding").read_text().strip()
