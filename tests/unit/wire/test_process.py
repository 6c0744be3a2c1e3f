"""The message that starts a process, from a peer that may send anything."""

from __future__ import annotations

import json

import pytest

from mas_sandbox.wire.frames import MAX_PAYLOAD, ProtocolError
from mas_sandbox.wire.process import MAX_ARGUMENTS, Process

SOUND = json.loads(Process(["sh", "-c", "true"], pty=(24, 80), env={"A": "b"}).encode())


def test_a_process_survives_the_wire() -> None:
    process = Process(
        ["sh"], cwd="/workspace/a", nofile=64, paths=[("/data", "ro")], timeout_ms=5, user="agent"
    )
    read = Process.parse(process.encode())
    assert [getattr(read, name) for name in Process.__slots__] == [
        getattr(process, name) for name in Process.__slots__
    ]
    assert Process.parse(json.dumps(SOUND).encode()).pty == (24, 80)


@pytest.mark.parametrize(
    "change",
    [
        {"argv": []},
        {"argv": ["a\0b"]},
        {"argv": [1]},
        {"argv": "sh"},
        {"argv": ["a"] * (MAX_ARGUMENTS + 1)},
        {"pty": [0, 80]},
        {"pty": [24]},
        {"pty": [24, 65536]},
        {"env": {"A": 1}},
        {"timeout_ms": -1},
        {"nofile": True},
        {"paths": [["relative", "rw"]]},
        {"user": None},
        {"unknown": 1},
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        Process.parse(json.dumps(SOUND | change).encode())


def test_what_fits_no_frame_is_told_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="at most"):
        Process(["a" * MAX_PAYLOAD]).encode()
