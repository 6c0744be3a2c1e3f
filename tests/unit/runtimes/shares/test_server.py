"""The file server as a service of the channel: many requests at once, and a hostile guest."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path

import pytest

from doubles import fuse_guest as fuse
from doubles.fuse_guest import message
from mas_sandbox.runtimes.base import Mount, SandboxSpec
from mas_sandbox.runtimes.channel import Channel, open_channel
from mas_sandbox.runtimes.shares.server import FileServer, serve_directories
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.errors import ErrorCode, SandboxError
from mas_sandbox.wire.frames import FROM_HOST, GUEST_STREAM, FrameParser, Kind, encode

pytestmark = pytest.mark.anyio
STREAM = GUEST_STREAM | 1


class Guest:
    """The far end of a channel, in frames."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._parser = FrameParser(FROM_HOST)
        self._received = bytearray()

    def send(self, kind: Kind, payload: bytes = b"", stream: int = STREAM) -> None:
        self.writer.write(encode(kind, stream, payload))

    async def answers(self, count: int) -> dict[int, bytes]:
        """So many answers: unique -> error and payload."""
        found: dict[int, bytes] = {}
        while len(found) < count:
            data = await asyncio.wait_for(self._reader.read(65536), 10)
            assert data, "the channel ended"
            for kind, _, payload in self._parser.feed(data):
                if kind is Kind.DATA:
                    self._received += payload
                    self.send(Kind.CREDIT, struct.pack("!I", len(payload)))
            while len(self._received) >= 16:
                length, _, unique = struct.unpack_from("=IiQ", self._received)
                if len(self._received) < length:
                    break
                assert unique not in found
                found[unique] = bytes(self._received[4:length])
                del self._received[:length]
        return found


async def connected(spec: SandboxSpec) -> tuple[FileServer, Channel, Guest]:
    import socket

    ours, theirs = socket.socketpair()
    channel = await open_channel(ours)
    shares = serve_directories(spec, ())
    shares.serve(channel)
    guest = Guest(*await asyncio.open_unix_connection(sock=theirs))
    guest.send(Kind.OPEN, b"share/0")
    return shares, channel, guest


async def stopped(shares: FileServer, channel: Channel, guest: Guest) -> None:
    await channel.aclose()
    await shares.close()
    guest.writer.close()


def spec(directory: Path, **limits: int) -> SandboxSpec:
    return SandboxSpec(mounts=(Mount("/data", str(directory), True),), **limits)  # type: ignore[arg-type]


async def test_many_requests_at_once_are_each_answered(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 1000)
    before = sorted(os.listdir("/proc/self/fd"))
    parts = await connected(spec(tmp_path))
    guest = parts[2]
    for unique in range(1, 301):
        guest.send(Kind.DATA, message(fuse.LOOKUP, 1, b"file\0", unique))
    answers = await guest.answers(300)
    assert answers.keys() == set(range(1, 301))
    assert all(struct.unpack_from("=i", answer)[0] == 0 for answer in answers.values())
    await stopped(*parts)
    assert len(os.listdir("/proc/self/fd")) <= len(before)


async def test_a_request_in_many_pieces_and_many_in_one(tmp_path: Path) -> None:
    parts = await connected(spec(tmp_path))
    guest = parts[2]
    both = message(fuse.STATFS, 1, b"", 1) + message(fuse.STATFS, 1, b"", 2)
    for byte in both[:-1]:
        guest.send(Kind.DATA, bytes([byte]))
    guest.send(Kind.DATA, both[-1:] + message(fuse.STATFS, 1, b"", 3))
    assert (await guest.answers(3)).keys() == {1, 2, 3}
    await stopped(*parts)


async def test_a_mebibyte_goes_each_way(tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    parts = await connected(spec(tmp_path))
    guest = parts[2]
    guest.send(Kind.DATA, message(fuse.LOOKUP, 1, b"file\0"))
    (node,) = struct.unpack_from("=Q", (await guest.answers(1))[7], 12)
    guest.send(Kind.DATA, message(fuse.OPEN, node, struct.pack("=II", os.O_RDWR, 0)))
    (handle,) = struct.unpack_from("=Q", (await guest.answers(1))[7], 12)
    asked = struct.pack("=QQIIQII", handle, 0, 1 << 20, 0, 0, 0, 0)
    guest.send(Kind.DATA, message(fuse.READ, node, asked))
    assert (await guest.answers(1))[7][12:] == data
    await stopped(*parts)


@pytest.mark.parametrize(
    "garbage",
    [
        struct.pack("=IIQQIIIHH", 39, 1, 1, 1, 0, 0, 0, 0, 0),
        struct.pack("=IIQQIIIHH", 2**31, 1, 1, 1, 0, 0, 0, 0, 0),
        message(fuse.LOOKUP, 1, b"../sentinel\0"),
        message(fuse.READ, 1, b"short"),
    ],
)
async def test_AP_09_a_malformed_request_ends_the_sandbox(garbage: bytes, tmp_path: Path) -> None:
    parts = await connected(spec(tmp_path))
    _, channel, guest = parts
    guest.send(Kind.DATA, garbage)
    async with asyncio.timeout(10):
        while channel.lost is None:
            await asyncio.sleep(0.01)
    assert channel.lost.code is ErrorCode.GUEST_PROTOCOL_ERROR
    await stopped(*parts)


async def test_a_second_stream_for_one_share_ends_the_sandbox(tmp_path: Path) -> None:
    parts = await connected(spec(tmp_path))
    _, channel, guest = parts
    guest.send(Kind.OPEN, b"share/0", STREAM + 1)
    async with asyncio.timeout(10):
        while channel.lost is None:
            await asyncio.sleep(0.01)
    assert channel.lost.code is ErrorCode.GUEST_PROTOCOL_ERROR
    await stopped(*parts)


async def test_a_guest_that_takes_no_answers_is_not_given_more_memory(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as sparse:
        sparse.truncate(1 << 40)
    parts = await connected(spec(tmp_path))
    _, channel, guest = parts
    guest.send(Kind.DATA, message(fuse.LOOKUP, 1, b"file\0"))
    (node,) = struct.unpack_from("=Q", (await guest.answers(1))[7], 12)
    guest.send(Kind.DATA, message(fuse.OPEN, node, struct.pack("=II", os.O_RDONLY, 0)))
    (handle,) = struct.unpack_from("=Q", (await guest.answers(1))[7], 12)
    asked = message(fuse.READ, node, struct.pack("=QQIIQII", handle, 0, 1 << 20, 0, 0, 0, 0))
    flood = asked * (INITIAL // len(asked) - 4)
    resident = _resident()
    for start in range(0, len(flood), 60_000):
        guest.send(Kind.DATA, flood[start : start + 60_000])
    await asyncio.sleep(1)
    assert channel.lost is None
    assert _resident() - resident < 32 << 20
    await stopped(*parts)


async def test_files_are_closed_with_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    before = len(os.listdir("/proc/self/fd"))
    parts = await connected(spec(tmp_path))
    guest = parts[2]
    for unique in range(20):
        body = struct.pack("=IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"f%d\0" % unique
        guest.send(Kind.DATA, message(fuse.CREATE, 1, body, unique))
    await guest.answers(20)
    await stopped(*parts)
    await asyncio.sleep(0)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_limits_of_bandwidth_and_operations_hold(tmp_path: Path) -> None:
    parts = await connected(spec(tmp_path, iops=50))
    guest = parts[2]
    started = time.monotonic()
    for unique in range(1, 41):
        guest.send(Kind.DATA, message(fuse.STATFS, 1, b"", unique))
    await guest.answers(40)
    assert time.monotonic() - started > 0.6  # 40 at 50 a second, less a tenth of a second's worth
    await stopped(*parts)


async def test_a_bad_directory_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SandboxError):
        serve_directories(spec(tmp_path / "absent"), ())
    assert os.listdir("/proc/self/fd") == before


async def test_a_directory_is_served_as_its_owner(tmp_path: Path) -> None:
    """Files are made as the owner's, and what the owner may not read stays unread, also by
    a daemon that is root."""
    root = os.geteuid() == 0
    owner = (4321, 4322) if root else (os.geteuid(), os.getegid())
    owned = tmp_path / "owned"
    owned.mkdir()
    (owned / "secret").write_text("root's own")
    (owned / "secret").chmod(0o600 if root else 0)
    os.chown(owned, *owner)
    parts = await connected(spec(owned))
    guest = parts[2]
    made = struct.pack("=IIII", os.O_RDWR | os.O_CREAT, 0o666, 0, 0) + b"made\0"
    guest.send(Kind.DATA, message(fuse.CREATE, 1, made, 1))
    guest.send(Kind.DATA, message(fuse.LOOKUP, 1, b"secret\0", 2))
    answers = await guest.answers(2)
    (node,) = struct.unpack_from("=Q", answers[2], 12)
    guest.send(Kind.DATA, message(fuse.OPEN, node, struct.pack("=II", os.O_RDONLY, 0), 3))
    assert struct.unpack_from("=i", (await guest.answers(1))[3])[0] == -13
    status = (owned / "made").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*owner, 0o666)
    (tmp_path / "of the daemon").touch()
    assert (tmp_path / "of the daemon").stat().st_uid == os.geteuid()
    await stopped(*parts)


def _resident() -> int:
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
