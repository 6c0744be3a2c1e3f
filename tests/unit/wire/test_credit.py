"""Credit: a sender may never send more than it was given, nor be given what it did not send."""

from __future__ import annotations

import struct

import pytest

from mas_sandbox.wire.credit import INITIAL, ReceiveCredit, SendCredit
from mas_sandbox.wire.frames import ProtocolError


def test_what_is_consumed_comes_back_to_the_sender() -> None:
    sender, receiver = SendCredit(), ReceiveCredit()
    sent = 0
    while sent < 3 * INITIAL:
        size = min(10_000, sender.available)
        assert size > 0
        sender.spend(size)
        receiver.received(size)
        sent += size
        if grant := receiver.consumed(size):
            sender.granted(grant)


def test_small_amounts_are_given_back_together() -> None:
    receiver = ReceiveCredit()
    receiver.received(INITIAL)
    assert receiver.consumed(INITIAL // 4 - 1) is None
    assert receiver.consumed(1) == struct.pack("!I", INITIAL // 4)
    assert receiver.consumed(1) is None


def test_one_byte_beyond_the_window_is_refused() -> None:
    receiver = ReceiveCredit()
    receiver.received(INITIAL)
    with pytest.raises(ProtocolError, match="beyond"):
        receiver.received(1)


def test_consuming_does_not_widen_the_window_before_the_grant_is_sent() -> None:
    receiver = ReceiveCredit()
    receiver.received(INITIAL)
    assert receiver.consumed(100) is None
    with pytest.raises(ProtocolError):
        receiver.received(1)


@pytest.mark.parametrize("payload", [b"", b"\0\0\1", b"\0\0\0\0\1"])
def test_a_grant_is_four_bytes(payload: bytes) -> None:
    with pytest.raises(ProtocolError, match="payload"):
        SendCredit().granted(payload)


def test_credit_for_bytes_that_were_never_sent_is_refused() -> None:
    sender = SendCredit()
    sender.spend(10)
    sender.granted(struct.pack("!I", 10))
    with pytest.raises(ProtocolError, match="never sent"):
        sender.granted(struct.pack("!I", 1))
