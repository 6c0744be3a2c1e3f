"""The world that nothing of a sandbox's may reach: decoys at every address worth an attempt.

A `NetworkWorld` with the addresses of clouds' metadata services, of private networks and of
IPv6 beside its own, each of them in a namespace of the test's; nothing else is connected.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from doubles.network_world import ADDRESSES, HOST, WORLD, NetworkWorld, run

METADATA = ("169.254.169.254", "169.254.170.2", "100.100.100.200", "168.63.129.16")
METADATA_6 = "fd00:ec2::254"
PRIVATE = ("10.99.0.1", "172.16.0.9", "192.168.0.9", "100.64.0.9", "169.254.9.9", "198.18.0.9")
ELSEWHERE_6 = ("2001:db8::9", "fd99::9", "64:ff9b::a63:1", "2002:a63:1::9")
DECOYS = (*METADATA, METADATA_6, *PRIVATE, *ELSEWHERE_6)
HOST_6, WORLD_6 = "fd77::1", "fd77::2"
PORTS = (53, 80, 443, 853, 8443)
_IPV4, _IPV6 = 0x0800, 0x86DD
_ICMP6 = 58
_OWN_CHATTER = range(130, 144)  # router, neighbour and group messages of the kernel's own


class DecoyWorld(NetworkWorld):
    """`arrived` is the oracle: every IP packet that came out of the host's only cable."""

    def __enter__(self) -> Self:
        super().__enter__()
        try:
            self._furnish()
        except BaseException:
            super().__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cable.close()
        for decoy in self._decoys:
            decoy.close()
        super().__exit__(kind, error, traceback)

    def arrived(self, wait_s: float = 0.05) -> list[str]:
        """`address:port` of each packet to the world since it was last asked."""
        time.sleep(wait_s)
        found: list[str] = []
        while True:
            try:
                frame, address = self._cable.recvfrom(65536)
            except BlockingIOError:
                return found
            if address[2] != socket.PACKET_OUTGOING and (target := _target(frame)):
                found.append(target)

    def reached(self) -> list[str]:
        """The decoys that somebody has connected to or written to."""
        found = []
        for decoy in self._decoys:
            with suppress(BlockingIOError):
                if decoy.type == socket.SOCK_STREAM:
                    decoy.accept()[0].close()
                else:
                    decoy.recv(1)
                found.append("{}:{}".format(*decoy.getsockname()))
        return found

    def _furnish(self) -> None:
        self._decoys: list[socket.socket] = []
        run(f"ip address add {HOST_6}/64 dev up0 nodad; ip -6 route add default via {WORLD_6}")
        with self.in_world():
            self._cable = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            self._cable.bind(("world0", 0))
            self._cable.setblocking(False)
            run(f"ip address add {WORLD_6}/64 dev world0 nodad")
            for address in DECOYS:
                if address not in ADDRESSES:
                    run(f"ip address add {address} dev lo" + " nodad" * (":" in address))
                for port in PORTS:
                    self._decoy(address, socket.SOCK_STREAM, port)
                    self._decoy(address, socket.SOCK_DGRAM, port)
            theirs = _hardware_address("world0")
        # Neighbours that are known for good: no chatter is to be told from a packet.
        ours = _hardware_address("up0")
        _introduce("up0", theirs, WORLD, WORLD_6)
        with self.in_world():
            _introduce("world0", ours, HOST, HOST_6)

    def _decoy(self, address: str, kind: socket.SocketKind, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        decoy = socket.socket(family, kind)
        self._decoys.append(decoy)
        decoy.bind((address, port))
        if kind is socket.SOCK_STREAM:
            decoy.listen(64)
        decoy.setblocking(False)


def _hardware_address(device: str) -> str:
    return str(json.loads(run(f"ip -j link show {device}"))[0]["address"])


def _introduce(device: str, hardware: str, *neighbours: str) -> None:
    for neighbour in neighbours:
        run(f"ip neighbour replace {neighbour} lladdr {hardware} dev {device} nud permanent")


def _target(frame: bytes) -> str:
    """Where an IP packet goes; empty for anything else, and for the kernel's own chatter."""
    kind, packet = int.from_bytes(frame[12:14]), frame[14:]
    if kind == _IPV4:
        protocol, payload = packet[9], packet[(packet[0] & 15) * 4 :]
        target = socket.inet_ntop(socket.AF_INET, packet[16:20])
    elif kind == _IPV6:
        protocol, payload = packet[6], packet[40:]
        target = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        if protocol == 0:  # options hop by hop: reports of group membership
            return ""
        if protocol == _ICMP6 and payload[0] in _OWN_CHATTER:
            return ""
    else:
        return ""
    if protocol in (socket.IPPROTO_TCP, socket.IPPROTO_UDP):
        return f"{target}:{struct.unpack_from('!H', payload, 2)[0]}"
    return f"{target} protocol {protocol}"
