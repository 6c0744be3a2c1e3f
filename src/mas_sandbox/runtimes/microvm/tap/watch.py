"""Notices when someone else removes our tables, as the reload of a firewall may do.

Source: netlink(7); <linux/netfilter/nfnetlink.h>, NFNLGRP_NFTABLES, and
<linux/netfilter/nf_tables.h>, NFT_MSG_DELTABLE.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable

_NETLINK_NETFILTER = 12
_GROUP_NFTABLES = 7
_TABLE_REMOVED = 10 << 8 | 2
_HEADER = struct.Struct("=IHHII")
_RECEIVE_BYTES = 1 << 16


class Watch:
    """Calls `lost` for each removed table with its name, or with None when it cannot tell."""

    def __init__(self, lost: Callable[[bytes | None], None]) -> None:
        """Raises OSError."""
        self._lost = lost
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 1 << (_GROUP_NFTABLES - 1)))
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        except BaseException:
            self._socket.close()
            raise

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._lost(None)  # more was told than there was room for
            return
        while len(data) >= _HEADER.size:
            length, kind, *_ = _HEADER.unpack_from(data)
            if kind == _TABLE_REMOVED:
                self._lost(_name(data[:length]))
            data = data[max(length + 3 & ~3, _HEADER.size) :]


def _name(message: bytes) -> bytes | None:
    """The first attribute, NFTA_TABLE_NAME: after both headers, and its own of four bytes."""
    (length, kind) = struct.unpack_from("=HH", message, _HEADER.size + 4)
    start = _HEADER.size + 4
    return message[start + 4 : start + length].rstrip(b"\0") if kind == 1 else None
