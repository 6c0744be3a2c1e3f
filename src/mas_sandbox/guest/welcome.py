"""What the host's WELCOME changes in this guest."""

from __future__ import annotations

import os

from mas_sandbox.wire.frames import ProtocolError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mas_sandbox.wire.messages import Welcome

    from .machine import Machine


def apply(welcome: Welcome, machine: Machine | None) -> None:
    """Everything a machine of our own needs to be like no other; else only mix the
    entropy in, where that is permitted: a shared kernel's clock and name are the host's.

    Raises ProtocolError for entropy that is not hexadecimal, Unenforceable for what the
    machine cannot hold.
    """
    try:
        entropy = bytes.fromhex(welcome.entropy)
    except ValueError as error:
        raise ProtocolError("WELCOME entropy is not hexadecimal") from error
    if machine is not None:
        machine.welcome(welcome, entropy)
    else:
        _mix(entropy)


def _mix(entropy: bytes) -> None:
    try:
        pool = os.open("/dev/urandom", os.O_WRONLY)
    except OSError:
        return
    try:
        os.write(pool, entropy)
    finally:
        os.close(pool)
