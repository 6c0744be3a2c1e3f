"""sandbox.ports: what listens for TCP connections in here (proc_net(5))."""

from __future__ import annotations

import _socket
import os
import sys

from mas_sandbox.guest.tools import ToolFailure
from mas_sandbox.guest.tools.arguments import only

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mas_sandbox.guest.files import Files

_LISTEN = b"0A"  # TCP_LISTEN
_TABLES = (("/proc/net/tcp", _socket.AF_INET), ("/proc/net/tcp6", _socket.AF_INET6))
_MAX_BYTES = 1024 * 1024
_MAX_DESCRIPTORS = 20_000


def ports(args: dict[str, Any], files: Files) -> list[dict[str, Any]]:
    """[{port, address, pid?}] by port. `pid` where the kernel lets this process see whose
    socket it is, which Landlock does not."""
    only(args)
    found = {}
    for table, family in _TABLES:
        for line in _lines(table):
            fields = line.split()
            if len(fields) > 9 and fields[3] == _LISTEN:
                address, _, port = fields[1].partition(b":")
                found[int(port, 16), _address(address, family)] = fields[9].decode()
    owners = _owners(set(found.values())) if found else {}
    return [
        {"port": port, "address": address} | ({"pid": owners[inode]} if inode in owners else {})
        for (port, address), inode in sorted(found.items())
    ]


def _lines(table: str) -> list[bytes]:
    try:
        with open(table, "rb") as file:
            return file.read(_MAX_BYTES).splitlines()[1:]
    except FileNotFoundError as error:
        if table == _TABLES[0][0]:
            raise ToolFailure("this sandbox has no /proc/net to list its ports from") from error
        return []  # no IPv6


def _address(hexadecimal: bytes, family: int) -> str:
    """The kernel prints each four bytes as one number of its own byte order."""
    raw = bytes.fromhex(hexadecimal.decode())
    if sys.byteorder == "little":
        raw = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
    return _socket.inet_ntop(family, raw)


def _owners(inodes: set[str]) -> dict[str, int]:
    """Socket -> a process that has it open."""
    owners: dict[str, int] = {}
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    left = _MAX_DESCRIPTORS
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            descriptors = os.listdir(f"/proc/{name}/fd")
        except OSError:
            continue  # gone, or not to be looked into
        for descriptor in descriptors[:left]:
            try:
                inode = wanted.get(os.readlink(f"/proc/{name}/fd/{descriptor}"))
            except OSError:
                continue
            if inode is not None:
                owners.setdefault(inode, int(name))
        left -= len(descriptors)
        if left <= 0:
            break
    return owners
