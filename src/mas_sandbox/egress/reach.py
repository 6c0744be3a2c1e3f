"""A network policy, compiled to answer for hosts, addresses and requests."""

from __future__ import annotations

from ipaddress import ip_network

from mas_sandbox.policy.grants import NetworkPolicy, host_covered, path_covered

from .host import Address, Host
from .refusal import Outcome, Refused
from .special import embedded, is_this_host, special_range


class Reach:
    """Where one policy lets connections go. None reaches nothing, as an empty one does.

    Every method raises Refused, naming what would have to be allowed.
    """

    def __init__(self, network: NetworkPolicy | None) -> None:
        self._network = network or NetworkPolicy()
        self._blocks = [ip_network(block) for block in self._network.cidrs]
        self._ports = frozenset(self._network.allowed_ports)

    @property
    def judges_paths(self) -> bool:
        return self._network.http is not None

    def target(self, host: Host, port: int) -> str:
        """The rule by which `host` may be asked for."""
        if self._network.reaches_nothing:
            raise _denied(
                "network", "the policy of this sandbox allows no network; name hosts in it"
            )
        rule = self._name(host) if host.address is None else self._literal(host.address)
        if port not in self._ports:
            ports = ", ".join(map(str, sorted(self._ports)[:8]))
            raise _denied(
                "network.ports",
                f"port {port} is not allowed, ports {ports} are; add it to network.ports",
            )
        return rule

    def address(self, host: Host, address: Address) -> None:
        """Whether `host` may be dialled at `address`, of all those that it resolves to.

        A name reaches public addresses; one of a special range, or one of this host's own,
        has to be covered by `network.cidrs` too.
        """
        inner = embedded(address)
        if self._covers(address) and (
            inner is None or special_range(inner) is None or self._covers(inner)
        ):
            return
        special = special_range(address) or (
            "this host's own address" if is_this_host(address) else None
        )
        if special is not None:
            what = "is" if host.address is not None else f"resolves to {address}, which is"
            raise _denied(
                f"special range: {special}",
                f"{host.text} {what} special ({special}); "
                "if it is meant, name its block in network.cidrs",
            )

    def request(self, host: Host, method: str, path: str) -> str:
        """The rule by which a request of plain HTTP may be made; "" where none is needed."""
        if self._network.http is None:
            return ""
        for number, rule in enumerate(self._network.http):
            named = rule.hosts is None or (
                host.address is None and any(host_covered(host.text, by) for by in rule.hosts)
            )
            if named and method in rule.methods and any(path_covered(path, p) for p in rule.paths):
                return f"network.http: {number}"
        raise _denied(
            "network.http",
            f"no rule of network.http allows this {method[:32]} request to {host.text}",
        )

    def _name(self, host: Host) -> str:
        for pattern in self._network.hosts:
            if host_covered(host.text, pattern):
                return f"network.hosts: {pattern}"
        raise _denied("network.hosts", f"{host.text} is not allowed; add it to network.hosts")

    def _literal(self, address: Address) -> str:
        for block in self._blocks:
            if address in block:
                return f"network.cidrs: {block}"
        special = special_range(address)
        rule = "network.cidrs" if special is None else f"special range: {special}"
        raise _denied(rule, _ADD_BLOCK.format(address))

    def _covers(self, address: Address) -> bool:
        return any(address in block for block in self._blocks)


_ADD_BLOCK = "{} is not allowed; addresses are allowed by a block in network.cidrs"


def _denied(rule: str, reason: str) -> Refused:
    return Refused(Outcome.DENIED, rule, reason)
