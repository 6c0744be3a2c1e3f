"""The rules around machines with a network device, as scripts for nft(8).

Each daemon has two tables of one name. In `netdev`, at the moment a packet leaves a
machine: is it who it says it is, else it is dropped, ARP and all other protocols
included. In `inet`: where may it go. Both know only our devices, and drop what they do not
allow; the rest of the host's traffic passes them by, as it did before. Source: nft(8).
"""

from __future__ import annotations

from collections.abc import Iterable

from .addresses import Addresses
from .device import GROUP
from .reach import Reach

DNS, DNS_OVER_TLS = 53, 853
QUERIES_PER_S = 20
"""Questions to the resolver, over UDP, and connections to it, over TCP, for each machine."""
_BURST = "burst 128 kbytes"  # a segment that a machine leaves to its device to split has 64


def create(table: str) -> str:
    """The tables, without any machine.

    `raised`: interfaces that this daemon lets packets be forwarded from. They did not
    before, so what they may send on is what goes to a device of ours, and no more.
    """
    return f"""
create table netdev {table}
create table inet {table}
table inet {table} {{
  set raised {{ type ifname; }}
  set guests {{ type ifname; }}
  set addresses {{ type ipv4_addr; }}
  map leaving {{ type ifname : verdict; }}
  map arriving {{ type ifname : verdict; }}
  map asking {{ type ifname : verdict; }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname @raised oifgroup != {GROUP} drop
    oifname vmap @arriving
    oifname @guests ct state != {{ established, related }} drop
    iifname vmap @leaving
    iifname @guests drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname vmap @asking
    iifname @guests drop
  }}
  chain output {{
    type filter hook output priority filter; policy accept;
    oifname @guests ct state {{ established, related }} accept
    oifname @guests icmp type destination-unreachable accept
    oifname @guests drop
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr @addresses masquerade
  }}
}}
"""


def admit(
    table: str, number: int, device: str, mac_address: str, addresses: Addresses, reach: Reach
) -> str:
    """One machine, known by `number` in the names of its chains."""
    gateway, guest = addresses.gateway, addresses.guest
    blocks = ", ".join(map(str, reach.blocks))
    ports = ", ".join(map(str, reach.ports))
    rate = over = arriving = ""
    if reach.kb_per_s is not None:
        rate = f"limit rate_{number} {{ rate over {reach.kb_per_s} kbytes/second {_BURST}; }}"
        over = f'limit name "rate_{number}" drop'
        arriving = f'add element inet {table} arriving {{ "{device}" : jump arriving_{number} }}'
    return f"""
table netdev {table} {{
  chain from_{number} {{
    type filter hook ingress device "{device}" priority -300; policy drop;
    ether saddr != {mac_address} drop
    ether type ip ip saddr {guest} accept
    arp operation {{ request, reply }} arp saddr ether {mac_address} \
arp saddr ip {guest} arp daddr ip {gateway} accept
  }}
}}
table inet {table} {{
  {rate}
  chain leaving_{number} {{
    {over}
    tcp dport {{ {DNS}, {DNS_OVER_TLS} }} reject with icmp type admin-prohibited
    ip daddr {{ {blocks} }} tcp dport {{ {ports} }} accept
    reject with icmp type admin-prohibited
  }}
  chain arriving_{number} {{
    {over}
  }}
  chain asking_{number} {{
    ip daddr {gateway} udp dport {DNS} limit rate {QUERIES_PER_S}/second burst 50 packets accept
    ip daddr {gateway} tcp dport {DNS} ct state established accept
    ip daddr {gateway} tcp dport {DNS} limit rate {QUERIES_PER_S}/second burst 50 packets accept
  }}
}}
add element inet {table} guests {{ "{device}" }}
add element inet {table} addresses {{ {guest} }}
add element inet {table} leaving {{ "{device}" : goto leaving_{number} }}
add element inet {table} asking {{ "{device}" : jump asking_{number} }}
{arriving}
"""


def dismiss(table: str, number: int, device: str, addresses: Addresses, reach: Reach) -> str:
    """Undo `admit`, from what lets packets pass to what says whose they are."""
    limited = reach.kb_per_s is not None
    return "\n".join(
        [
            f'delete element inet {table} leaving {{ "{device}" }}',
            f'delete element inet {table} asking {{ "{device}" }}',
            f'delete element inet {table} arriving {{ "{device}" }}' if limited else "",
            *(f"delete chain inet {table} {name}_{number}" for name in _CHAINS),
            f"delete limit inet {table} rate_{number}" if limited else "",
            f"delete element inet {table} addresses {{ {addresses.guest} }}",
            f'delete element inet {table} guests {{ "{device}" }}',
            f"delete chain netdev {table} from_{number}",
            "",
        ]
    )


def raise_interfaces(table: str, interfaces: Iterable[str]) -> str:
    """Write down that packets are to be forwarded from these, which drops all but ours."""
    names = ", ".join(f'"{name}"' for name in interfaces)
    return f"add element inet {table} raised {{ {names} }}\n"


_CHAINS = ("leaving", "arriving", "asking")
