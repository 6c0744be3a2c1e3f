"""A guest that is nothing but frames: it stands where a machine's monitor would, at the open
end of its TAP device, and says whatever it likes. Sources: RFC 826, 791, 793, 768, 4861.
"""

from __future__ import annotations

import os
import select
import struct
import time
from dataclasses import dataclass
from ipaddress import IPv4Address

from mas_sandbox.runtimes.microvm.tap.network import Link

_OFFLOAD = bytes(10)  # struct virtio_net_hdr: nothing is asked of the host
BROADCAST = b"\xff" * 6
TCP, UDP, ICMP = 6, 17, 1


@dataclass(frozen=True)
class Frame:
    kind: int
    body: bytes


class RawGuest:
    """`mac`, `ip`: its own; every method can lie about them."""

    def __init__(self, link: Link) -> None:
        assert link.device.descriptor is not None
        self._tap = link.device.descriptor
        os.set_blocking(self._tap, False)
        self.mac = bytes.fromhex(link.mac_address.replace(":", ""))
        self.ip = str(link.addresses.guest)
        self.gateway = str(link.addresses.gateway)
        self.gateway_mac = self.find_gateway()

    def find_gateway(self) -> bytes:
        for _ in range(20):
            self.send(
                BROADCAST, self.mac, 0x0806, arp(1, self.mac, self.ip, bytes(6), self.gateway)
            )
            for frame in self.received(0.1):
                if frame.kind == 0x0806 and frame.body[6:8] == b"\0\2":
                    return frame.body[8:14]
        raise AssertionError("the gateway does not answer ARP")

    def send(self, to: bytes, mac: bytes, kind: int, body: bytes) -> None:
        os.write(self._tap, _OFFLOAD + to + mac + struct.pack("!H", kind) + body)

    def send_ip(
        self, target: str, protocol: int, body: bytes, *, ip: str = "", mac: bytes = b""
    ) -> None:
        packet = ipv4(ip or self.ip, target, protocol, body)
        self.send(self.gateway_mac, mac or self.mac, 0x0800, packet)

    def connect(self, target: str, port: int, *, ip: str = "", mac: bytes = b"") -> str:
        """What came of one SYN: "open", "reset", "prohibited" or "silence"."""
        self.received(0)
        body = tcp(ip or self.ip, target, 40_000, port)
        self.send_ip(target, TCP, body, ip=ip, mac=mac)
        for frame in self.received(0.3):
            if frame.kind != 0x0800:
                continue
            inner = frame.body[(frame.body[0] & 15) * 4 :]
            if frame.body[9] == TCP and inner[13] & 0x12 == 0x12:
                return "open"
            if frame.body[9] == TCP and inner[13] & 0x04:
                return "reset"
            if frame.body[9] == ICMP and inner[:2] == bytes((3, 13)):
                return "prohibited"
        return "silence"

    def received(self, wait_s: float) -> list[Frame]:
        """What comes within this time; returns at the first quiet moment after something."""
        frames: list[Frame] = []
        deadline = time.monotonic() + wait_s
        while True:
            left = 0.02 if frames else max(0.0, deadline - time.monotonic())
            if not select.select([self._tap], [], [], left)[0]:
                return frames
            try:
                data = os.read(self._tap, 70_000)[len(_OFFLOAD) :]
            except OSError:  # the device is down
                return frames
            frames.append(Frame(int.from_bytes(data[12:14]), data[14:]))


def arp(operation: int, mac: bytes, ip: str, target_mac: bytes, target: str) -> bytes:
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + mac + IPv4Address(ip).packed + target_mac + IPv4Address(target).packed


def ipv4(source: str, target: str, protocol: int, body: bytes) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + addresses
    return head[:10] + _checksum(head) + head[12:] + body


def tcp(source: str, target: str, port: int, target_port: int, flags: int = 2) -> bytes:
    segment = struct.pack("!HHIIBBHHH", port, target_port, 7, 0, 0x50, flags, 64_000, 0, 0)
    return segment[:16] + _checksum(_pseudo(source, target, TCP, segment) + segment) + segment[18:]


def udp(source: str, target: str, port: int, target_port: int, data: bytes) -> bytes:
    datagram = struct.pack("!HHHH", port, target_port, 8 + len(data), 0) + data
    return (
        datagram[:6] + _checksum(_pseudo(source, target, UDP, datagram) + datagram) + datagram[8:]
    )


def echo_request() -> bytes:
    message = struct.pack("!BBHHH", 8, 0, 0, 1, 1)
    return message[:2] + _checksum(message) + message[4:]


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", 99, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


def _pseudo(source: str, target: str, protocol: int, body: bytes) -> bytes:
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    return addresses + struct.pack("!BBH", 0, protocol, len(body))


def _checksum(data: bytes) -> bytes:
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
