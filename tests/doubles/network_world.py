"""A host with an uplink, and the world behind it: two network namespaces that a test makes.

Within `NetworkWorld` this thread, and what it starts, is on the host: a namespace with the
loopback and `up0`, an Ethernet cable to the world, where every address of `ADDRESSES` is.
Every address is ours: nothing can leave, since nothing else is connected. Sockets of the
world are made by `in_world`; `seen` is what arrived there, as counted on its end of the cable.
Needs root. Source: network_namespaces(7), packet(7).
"""

from __future__ import annotations

import ctypes
import ipaddress
import os
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

HOST, WORLD = "10.77.0.1", "10.77.0.2"
ALLOWED, OTHER, PRIVATE = "203.0.113.10", "198.51.100.20", "10.99.0.1"
ADDRESSES = (ALLOWED, "203.0.113.11", OTHER, PRIVATE)
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Packet:
    source: str
    target: str
    protocol: int
    port: int


class NetworkWorld:
    """Enter it before anything asynchronous begins, so that all threads are in it."""

    def __init__(self) -> None:
        self._undo = ExitStack()
        self._world = -1
        self._sniffer: socket.socket

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            before = _opened(undo)
            undo.callback(_enter, before)
            _unshare()
            self._world = _opened(undo)
            _unshare()
            # Else an address of the cable's own would change its state while a test runs.
            Path("/proc/sys/net/ipv6/conf/default/accept_dad").write_text("0")
            run(
                f"ip link add up0 type veth peer name world0 netns /proc/{os.getpid()}/fd/{self._world}"
            )
            run(f"ip address add {HOST}/24 dev up0")
            run("ip link set lo up; ip link set up0 up")
            run(f"ip route add default via {WORLD}")
            with self.in_world():
                run("ip link set lo up; ip link set world0 up")
                run(f"ip address add {WORLD}/24 dev world0")
                for address in ADDRESSES:
                    run(f"ip address add {address}/32 dev lo")
                self._sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                undo.callback(self._sniffer.close)
                self._sniffer.bind(("world0", 0))
                self._sniffer.setblocking(False)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._undo.close()

    @contextmanager
    def in_world(self) -> Iterator[None]:
        """This thread, for as long as the context lasts."""
        with ExitStack() as undo:
            host = _opened(undo)
            _enter(self._world)
            undo.callback(_enter, host)
            yield

    def listener(self, address: str, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A bound socket of the world's; listening, where it is a stream."""
        with self.in_world():
            bound = socket.socket(socket.AF_INET, kind)
        self._undo.callback(bound.close)
        bound.bind((address, port))
        if kind == socket.SOCK_STREAM:
            bound.listen()
        bound.setblocking(False)
        return bound

    def seen(self, wait_s: float = 0.15) -> list[Packet]:
        """The IPv4 packets that came to the world since it was last asked."""
        time.sleep(wait_s)
        packets = []
        while True:
            try:
                frame, address = self._sniffer.recvfrom(65536)
            except BlockingIOError:
                return packets
            if address[2] != socket.PACKET_OUTGOING and frame[12:14] == b"\x08\x00":
                packets.append(_packet(frame[14:]))


def state() -> str:
    """All that a machine's link could leave behind on this thread's host."""
    names = sorted(os.listdir("/proc/sys/net/ipv4/conf"))
    forwarding = [
        f"{name}={Path(f'/proc/sys/net/ipv4/conf/{name}/forwarding').read_text().strip()}"
        for name in names
    ]
    listed = run("nft list ruleset; ip -o link; ip -o address; ip rule; ip route show table all")
    return "\n".join([*forwarding, listed])


def run(command: str) -> str:
    done = subprocess.run(["sh", "-ec", command], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def _packet(packet: bytes) -> Packet:
    header = (packet[0] & 15) * 4
    port = struct.unpack_from("!H", packet, header + 2)[0] if packet[9] in (6, 17) else 0
    source, target = (str(ipaddress.IPv4Address(packet[at : at + 4])) for at in (12, 16))
    return Packet(source, target, packet[9], port)


def _opened(undo: ExitStack) -> int:
    """The network namespace that this thread is in."""
    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    undo.callback(os.close, descriptor)
    return descriptor


def _unshare() -> None:
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
