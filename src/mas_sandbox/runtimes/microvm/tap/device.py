"""A TAP device: an Ethernet port of the host whose other end is an open file.

Source: the kernel's Documentation/networking/tuntap.rst; ioctls of <linux/if_tun.h> and
netdevice(7).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from contextlib import suppress
from pathlib import Path

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from . import programs

TUN = "/dev/net/tun"
GROUP = 0x6D6173
"""The group (ip-link(8)) of every device of ours, by which rules of all daemons know them."""
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x2, 0x1000, 0x4000, 0x8000
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1
_IFREQ = "16sH22x"
_SETTINGS = {
    "ipv6/conf/{name}/disable_ipv6": "1",
    "ipv4/conf/{name}/forwarding": "1",
    "ipv4/conf/{name}/rp_filter": "1",
    "ipv4/conf/{name}/arp_ignore": "1",
    "ipv4/conf/{name}/accept_redirects": "0",
    "ipv4/conf/{name}/send_redirects": "0",
}


class Device:
    """It exists, down, until `remove`, or until both this process and its monitor have died."""

    def __init__(self, name: str) -> None:
        """Raises SandboxError `sandbox_crash` with what is in the way."""
        self.name = name
        self._descriptor: int | None = None
        try:
            self._descriptor = os.open(TUN, os.O_RDWR | os.O_CLOEXEC)
            # TUN_EXCL, else a device of that name that is there already would be joined.
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
            fcntl.ioctl(self._descriptor, _TUNSETIFF, struct.pack(_IFREQ, name.encode(), flags))
            for path, value in _SETTINGS.items():
                with suppress(FileNotFoundError):  # a kernel without IPv6
                    setting(path.format(name=name)).write_text(value)
        except OSError as error:
            if self._descriptor is not None:
                os.close(self._descriptor)
            mend = "the daemon must be root (CAP_NET_ADMIN), and have /dev/net/tun"
            if error.errno == errno.EBUSY:
                mend = "it is there already; put {id} into network.tap_device"
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH,
                f"the network device {name} cannot be made: {error.strerror}; {mend}",
            ) from error

    @property
    def descriptor(self) -> int | None:
        """The open file; None once the device is to be found by its name."""
        return self._descriptor

    def hand_over(self, user: int | None) -> None:
        """Let a process of this user open the device by its name; ours is closed.

        The device then stays until `remove`, whoever dies. Raises OSError.
        """
        assert self._descriptor is not None
        if user is not None:
            fcntl.ioctl(self._descriptor, _TUNSETOWNER, user)
        fcntl.ioctl(self._descriptor, _TUNSETPERSIST, 1)
        os.close(self._descriptor)
        self._descriptor = None

    def down(self) -> None:
        """From now on no packet passes; for a device that is gone, nothing."""
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            request = struct.pack(_IFREQ, self.name.encode(), 0)
            answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request)
            (flags,) = struct.unpack_from("H", answer, 16)
            request = struct.pack(_IFREQ, self.name.encode(), flags & ~_IFF_UP)
            fcntl.ioctl(any_socket, _SIOCSIFFLAGS, request)

    def remove(self) -> None:
        """Safe to call twice."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        with suppress(OSError, SandboxError):
            socket.if_nametoindex(self.name)  # as a rule it went with its last descriptor
            programs.ip(f"link delete dev {self.name}")


def setting(path: str) -> Path:
    """A setting of the network (sysctl(8)), beneath `net`."""
    return Path("/proc/sys/net") / path
