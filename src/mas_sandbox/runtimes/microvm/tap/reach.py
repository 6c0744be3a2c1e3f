"""What one machine may reach through its device: what config file and policy both allow."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, collapse_addresses
from typing import TYPE_CHECKING

from mas_sandbox.egress.special import special_blocks

if TYPE_CHECKING:
    from mas_sandbox.policy.grants import NetworkPolicy

    from ..config import NetworkConfig


@dataclass(frozen=True, slots=True)
class Reach:
    """`blocks` of addresses at TCP `ports`; `names`: for each layer, the patterns of names
    that may be resolved; `kb_per_s`: KiB a second, both ways together, None is not limited."""

    blocks: tuple[IPv4Network, ...]
    ports: tuple[int, ...]
    names: tuple[tuple[str, ...], ...]
    kb_per_s: int | None = None

    def resolves(self, name: str) -> bool:
        """Whether every layer allows this name, lower case, to be asked for."""
        from mas_sandbox.policy.grants import host_covered

        return bool(self.names) and all(
            any(host_covered(name, by) for by in layer) for layer in self.names
        )


def common_reach(
    config: NetworkConfig, policy: NetworkPolicy | None, kb_per_s: int | None = None
) -> Reach | None:
    """None where there is nothing that both allow: such a machine gets no device.

    Nor does one whose policy counts connections or bytes, or looks into requests: rules
    for packets cannot hold that, and the daemon's egress does.
    """
    if not config.enabled or policy is None or policy.reaches_nothing:
        return None
    if (policy.http, policy.max_connections, policy.max_mb) != (None, None, None):
        return None
    ours, theirs = _granted(config.allowed_cidrs), _granted(policy.cidrs)
    blocks = tuple(collapse_addresses(_common(ours, theirs)))
    if not blocks:
        return None
    names = (config.allowed_hosts, policy.hosts)
    return Reach(blocks, tuple(sorted(policy.allowed_ports)), names, kb_per_s)


def _granted(cidrs: Iterable[str]) -> list[IPv4Network]:
    """The IPv4 blocks, without what is special in them, unless a block lies all within that."""
    special = special_blocks()
    granted: list[IPv4Network] = []
    for block in (IPv4Network(text) for text in cidrs if ":" not in text):
        named = any(block.subnet_of(each) for each in special)
        granted += [block] if named else _without(block, special)
    return granted


def _without(block: IPv4Network, holes: Iterable[IPv4Network]) -> list[IPv4Network]:
    left = [block]
    for hole in holes:
        left = [part for each in left for part in _cut(each, hole)]
    return left


def _cut(block: IPv4Network, hole: IPv4Network) -> list[IPv4Network]:
    if block.subnet_of(hole):
        return []
    return list(block.address_exclude(hole)) if hole.subnet_of(block) else [block]


def _common(ours: list[IPv4Network], theirs: list[IPv4Network]) -> list[IPv4Network]:
    """Two blocks either lie one in the other, or have nothing in common."""
    pairs = [(one, other) for one in ours for other in theirs if one.overlaps(other)]
    return [max(pair, key=lambda block: block.prefixlen) for pair in pairs]
