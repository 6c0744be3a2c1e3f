"""What the host's WELCOME changes in this guest."""

from __future__ import annotations

import os
import sys
import time

from mas_sandbox.wire.frames import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from mas_sandbox.wire.messages import Welcome

_RNDRESEEDCRNG = 0x5207  # random(4)


def apply(welcome: Welcome, own_kernel: bool) -> None:
    """Mix the entropy in; with a kernel of its own, set the clock and the host name too.

    On a shared kernel those are the host's, and root in a sandbox must not touch them.
    Raises ProtocolError for entropy that is not hexadecimal.
    """
    try:
        entropy = bytes.fromhex(welcome.entropy)
    except ValueError as error:
        raise ProtocolError("WELCOME entropy is not hexadecimal") from error
    _if_permitted(_mix, entropy, own_kernel)
    if own_kernel and sys.platform == "linux":
        import socket

        _if_permitted(time.clock_settime_ns, time.CLOCK_REALTIME, welcome.time_ns)
        if welcome.hostname:
            _if_permitted(socket.sethostname, welcome.hostname)


def _mix(entropy: bytes, reseed: bool) -> None:
    pool = os.open("/dev/urandom", os.O_WRONLY)
    try:
        os.write(pool, entropy)
        if reseed:
            # Else the kernel's generator, cloned with a snapshot, goes on for minutes.
            import fcntl

            fcntl.ioctl(pool, _RNDRESEEDCRNG)
    finally:
        os.close(pool)


def _if_permitted(change: Callable[..., object], *arguments: object) -> None:
    try:
        change(*arguments)
    except OSError:
        return
