"""The file server against a guest's kernel that may ask anything."""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles import fuse_guest as fuse
from doubles.fuse_guest import FuseGuest, message
from mas_sandbox.runtimes.shares import kernel, nodes
from mas_sandbox.runtimes.shares.operations import Operations
from mas_sandbox.runtimes.shares.protocol import MAX_REQUEST, Op, take_request
from mas_sandbox.wire.frames import ProtocolError

SENTINEL = b"canary of the host"
EXCHANGE = 2  # RENAME_EXCHANGE, rename(2)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    (tmp_path / "sentinel").write_bytes(SENTINEL)
    return tmp_path / "shared"


def serving(directory: Path, *, writable: bool = True) -> Operations:
    root = os.open(directory, os.O_PATH)
    return Operations(root, writable=writable, owner=os.geteuid(), group=os.getegid())


@pytest.fixture
def guest(shared: Path) -> Iterator[FuseGuest]:
    operations = serving(shared)
    yield FuseGuest(operations)
    operations.close()


def test_files_are_made_written_read_and_removed(guest: FuseGuest, shared: Path) -> None:
    handle = guest.create("made", mode=0o640)
    assert guest.write(handle, b"hello") == 5
    assert guest.read(handle, offset=1) == b"ello"
    guest.release(handle)
    assert (shared / "made").read_bytes() == b"hello"
    assert (shared / "made").stat().st_mode & 0o777 == 0o640 & ~_umask()
    guest.rename("made", "moved")
    assert guest.attributes(guest.look_up("moved")).size == 5
    guest.ask(fuse.UNLINK, 1, b"moved\0")
    assert list(shared.iterdir()) == []


def test_owners_are_the_guests_user_or_nobody(guest: FuseGuest, shared: Path) -> None:
    (shared / "own").touch()
    own = guest.attributes(guest.look_up("own"))
    assert (own.user, own.group) == (1000, 1000)
    other = FuseGuest(Operations(os.open(shared, os.O_PATH), writable=True, owner=7, group=7))
    assert other.attributes(other.look_up("own")).user == 65534


def test_FS_03_links_are_shown_and_never_followed(guest: FuseGuest, shared: Path) -> None:
    (shared / "link").symlink_to(shared.parent / "sentinel")
    (shared / "up").symlink_to("..")
    link = guest.look_up("link")
    assert stat.S_ISLNK(guest.attributes(link).mode)
    assert guest.ask(fuse.READLINK, link) == os.fsencode(shared.parent / "sentinel")
    with pytest.raises(OSError) as through:
        guest.open(link, os.O_RDWR)
    assert through.value.errno == errno.ELOOP
    for op, body in (
        (fuse.LOOKUP, b"sentinel\0"),
        (fuse.MKDIR, struct.pack("=II", 0o755, 0) + b"x\0"),
    ):
        assert guest.error(op, guest.look_up("up"), body) == "ESTALE"
    guest_set = struct.pack("=II6Q8I", 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert guest.error(fuse.SETATTR, link, guest_set)
    assert (shared.parent / "sentinel").read_bytes() == SENTINEL
    assert not (shared.parent / "x").exists()


def test_FS_03_creating_over_a_link_does_not_write_through_it(
    guest: FuseGuest, shared: Path
) -> None:
    (shared / "link").symlink_to(shared.parent / "sentinel")
    (shared / "dangling").symlink_to(shared.parent / "new")
    for name in ("link", "dangling"):
        with pytest.raises(OSError):
            guest.create(name, os.O_RDWR | os.O_TRUNC)
    assert (shared.parent / "sentinel").read_bytes() == SENTINEL
    assert not (shared.parent / "new").exists()


def test_FS_04_a_directory_swapped_for_a_link_is_stale(guest: FuseGuest, shared: Path) -> None:
    (shared / "directory").mkdir()
    (shared / "directory" / "sentinel").touch()
    node, file = guest.look_up("directory"), guest.look_up("directory/sentinel")
    (shared / "directory").rename(shared / "moved")
    (shared / "directory").symlink_to("..")
    assert guest.error(fuse.LOOKUP, node, b"sentinel\0") == "ESTALE"
    with pytest.raises(OSError) as stale:
        guest.open(file)
    assert stale.value.errno == errno.ESTALE


def test_FS_04_what_was_moved_out_is_out_of_reach(guest: FuseGuest, shared: Path) -> None:
    """Also by a link that takes its place, though it is the very file that was given."""
    (shared / "directory").mkdir()
    (shared / "directory" / "file").write_text("inside")
    node = guest.look_up("directory/file")
    (shared / "directory").rename(shared.parent / "directory")
    (shared / "directory").symlink_to("../directory")
    with pytest.raises(OSError) as stale:
        guest.open(node)
    assert stale.value.errno == errno.ESTALE


def test_FS_04_a_race_of_swaps_never_leads_outside(guest: FuseGuest, shared: Path) -> None:
    for name in ("directory", "link"):
        (shared.parent / name).mkdir(exist_ok=True)
    (shared / "directory").mkdir()
    (shared / "link").symlink_to("..")
    over = threading.Event()

    def swap() -> None:
        with_it = os.open(shared, os.O_PATH)
        while not over.is_set():
            kernel.rename(with_it, b"directory", with_it, b"link", EXCHANGE)
        os.close(with_it)

    racing = threading.Thread(target=swap)
    racing.start()
    made = 0
    try:
        for number in range(3000):
            try:
                guest.create(f"f{number}", node=guest.look_up("directory"))
                made += 1
            except OSError:
                continue
            if made > 500:
                break
    finally:
        over.set()
        racing.join()
    assert sorted(path.name for path in shared.parent.iterdir()) == [
        *("directory", "link", "sentinel", "shared")
    ]
    assert made


def test_a_number_never_leads_to_another_file(guest: FuseGuest, shared: Path) -> None:
    (shared / "a").write_text("first")
    node = guest.look_up("a")
    (shared / "b").write_text("second")
    (shared / "b").rename(shared / "a")
    with pytest.raises(OSError) as stale:
        guest.open(node)
    assert stale.value.errno == errno.ESTALE
    assert guest.look_up("a") != node


def test_a_file_that_was_renamed_on_the_host_is_found_again(guest: FuseGuest, shared: Path) -> None:
    (shared / "a").write_text("text")
    node = guest.look_up("a")
    (shared / "a").rename(shared / "b")
    assert guest.look_up("b") == node
    assert guest.read(guest.open(node)) == b"text"


def test_a_file_that_is_open_and_removed_still_answers(guest: FuseGuest, shared: Path) -> None:
    handle = guest.create("temporary")
    node = guest.look_up("temporary")
    guest.write(handle, b"x" * 100)
    guest.ask(fuse.UNLINK, 1, b"temporary\0")
    assert guest.attributes(node).size == 100
    guest.release(handle)
    with pytest.raises(OSError):
        guest.attributes(node)


def test_FS_06_nothing_but_regular_files_is_opened(guest: FuseGuest, shared: Path) -> None:
    os.mkfifo(shared / "fifo")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(shared)
        listening.bind("socket")
        os.chdir(here)
    for name in ("fifo", "socket"):
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            with pytest.raises(OSError) as refused:
                guest.open(guest.look_up(name), flags)
            assert refused.value.errno == errno.ENXIO
            with pytest.raises(OSError):
                guest.create(name, flags)


def test_nothing_becomes_setuid_and_no_device_is_made(guest: FuseGuest, shared: Path) -> None:
    guest.release(guest.create("made", mode=0o6755))
    guest.set(guest.look_up("made"), 1, mode=0o106755)
    guest.ask(fuse.MKNOD, 1, struct.pack("=IIII", 0o106755, 0, 0, 0) + b"node\0")
    guest.ask(fuse.MKDIR, 1, struct.pack("=II", 0o6755, 0) + b"directory\0")
    for path in shared.iterdir():
        assert not path.stat().st_mode & 0o6000, path
    for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        body = struct.pack("=IIII", kind | 0o666, 259, 0, 0) + b"device\0"
        assert guest.error(fuse.MKNOD, 1, body) == "EPERM"


def test_owners_stay_the_hosts(guest: FuseGuest, shared: Path) -> None:
    (shared / "a").touch()
    node = guest.look_up("a")
    guest.set(node, 2, user=1000)
    with pytest.raises(PermissionError):
        guest.set(node, 2, user=0)


CHANGES = {
    fuse.SETATTR: bytes(88),
    fuse.SYMLINK: b"x\0y\0",
    fuse.MKNOD: struct.pack("=IIII", stat.S_IFREG | 0o644, 0, 0, 0) + b"x\0",
    fuse.MKDIR: struct.pack("=II", 0o755, 0) + b"x\0",
    fuse.UNLINK: b"file\0",
    fuse.RMDIR: b"directory\0",
    fuse.RENAME: struct.pack("=Q", 1) + b"file\0x\0",
    fuse.RENAME2: struct.pack("=QII", 1, 0, 0) + b"file\0x\0",
    fuse.LINK: struct.pack("=Q", 2) + b"x\0",
    fuse.WRITE: struct.pack("=QQIIQII", 1, 0, 1, 0, 0, 0, 0) + b"x",
    fuse.CREATE: struct.pack("=IIII", os.O_RDWR | os.O_CREAT, 0o644, 0, 0) + b"x\0",
    fuse.FALLOCATE: struct.pack("=QQQII", 1, 0, 10, 0, 0),
    fuse.COPY_FILE_RANGE: struct.pack("=7Q", 1, 0, 2, 1, 0, 1, 0),
}


@pytest.mark.parametrize("op", CHANGES)
def test_FS_08_a_read_only_share_refuses_every_change(op: int, shared: Path) -> None:
    (shared / "file").write_text("kept")
    (shared / "directory").mkdir()
    guest = FuseGuest(serving(shared, writable=False))
    guest.open(guest.look_up("file"))
    assert guest.error(op, 1, CHANGES[op]) == "EROFS"
    assert sorted(path.name for path in shared.iterdir()) == ["directory", "file"]
    assert (shared / "file").read_text() == "kept"


@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_TRUNC, 3])
def test_FS_08_a_read_only_share_opens_nothing_for_writing(flags: int, shared: Path) -> None:
    (shared / "file").write_text("kept")
    guest = FuseGuest(serving(shared, writable=False))
    assert guest.error(fuse.OPEN, guest.look_up("file"), struct.pack("=II", flags, 0)) == "EROFS"
    assert guest.read(guest.open(guest.look_up("file"))) == b"kept"


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"/etc", b"../sentinel"])
@pytest.mark.parametrize(
    ("op", "before"),
    [
        (fuse.LOOKUP, b""),
        (fuse.MKDIR, bytes(8)),
        (fuse.MKNOD, struct.pack("=IIII", stat.S_IFREG, 0, 0, 0)),
        (fuse.UNLINK, b""),
        (fuse.RMDIR, b""),
        (fuse.CREATE, struct.pack("=IIII", os.O_RDWR, 0o644, 0, 0)),
        (fuse.LINK, struct.pack("=Q", 1)),
        (fuse.RENAME, struct.pack("=Q", 1) + b"x\0"),
    ],
)
def test_a_name_that_no_kernel_asks_for_is_a_breach(
    guest: FuseGuest, op: int, before: bytes, name: bytes
) -> None:
    with pytest.raises(ProtocolError):
        guest.ask(op, 1, before + name + b"\0")


@pytest.mark.parametrize("op", [op for op in Op if op not in (Op.INTERRUPT, Op.DESTROY)])
@pytest.mark.parametrize("body", [b"\0", b"x", bytes(39), bytes(41), b"a\0b\0c\0d"])
def test_a_body_of_the_wrong_length_is_a_breach(guest: FuseGuest, op: Op, body: bytes) -> None:
    try:
        guest.ask(op, 1, body)
    except (ProtocolError, OSError):
        return  # some of these are well formed, and then merely fail
    assert op in (Op.LOOKUP, Op.INIT, Op.UNLINK, Op.RMDIR) or body == b"a\0b\0c\0d"


@pytest.mark.parametrize("length", [0, 39, MAX_REQUEST + 1, 2**32 - 1])
def test_a_length_that_no_request_has_is_refused_from_its_header(length: int) -> None:
    header = bytearray(message(fuse.STATFS))
    struct.pack_into("=I", header, 0, length)
    with pytest.raises(ProtocolError):
        take_request(header)


def test_numbers_that_were_never_given_are_errors(guest: FuseGuest) -> None:
    for node in (0, 2, 99, 2**64 - 1):
        assert guest.error(fuse.LOOKUP, node, b"a\0") == "ESTALE"
    for handle in (0, 1, 2**64 - 1):
        with pytest.raises(OSError) as bad:
            guest.read(handle)
        assert bad.value.errno == errno.EBADF


def test_offsets_and_sizes_beyond_all_bounds_are_errors(guest: FuseGuest) -> None:
    handle = guest.create("a")
    node = guest.look_up("a")
    for offset in (2**63, 2**64 - 1):
        for attempt in (
            lambda offset=offset: guest.read(handle, 10, offset),
            lambda offset=offset: guest.write(handle, b"x", offset),
            lambda offset=offset: guest.set(node, 8, size=offset),
        ):
            with pytest.raises(OSError):
                attempt()
    guest.write(handle, b"x" * 100)
    assert len(guest.read(handle, 2**32 - 1)) == 100


def test_a_file_that_ends_while_it_is_read_is_not_closed_under_the_reader(
    guest: FuseGuest, shared: Path
) -> None:
    handle = nodes.Handle(os.open(shared, os.O_RDONLY), nodes.Node(1, (0, 0), None, b"."))
    with handle as descriptor:
        handle.release()
        os.fstat(descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)
    with pytest.raises(OSError):
        handle.__enter__()


def test_open_files_and_known_names_are_bounded(
    guest: FuseGuest, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodes, "MAX_OPEN", 8)
    monkeypatch.setattr(nodes, "MAX_NODES", 20)
    for number in range(30):
        (shared / f"f{number}").touch()
    before = len(os.listdir("/proc/self/fd"))
    node = guest.look_up("f0")
    handles = [guest.open(node) for _ in range(8)]
    with pytest.raises(OSError) as many:
        guest.open(node)
    assert many.value.errno == errno.EMFILE
    assert len(os.listdir("/proc/self/fd")) == before + 8
    guest.release(handles[0])
    guest.release(guest.open(node))
    found = []
    with pytest.raises(OSError) as full:
        found += [guest.look_up(f"f{number}") for number in range(1, 30)]
    assert full.value.errno == errno.ENFILE
    listed = guest.list()
    assert len(listed) == 32  # all are listed; those that are too many without a node
    assert 0 < sum(map(bool, listed.values())) < 30


def test_what_is_forgotten_makes_room(guest: FuseGuest, shared: Path) -> None:
    (shared / "a").touch()
    node = guest.look_up("a")
    guest.look_up("a")
    guest.forget(node)
    assert guest.attributes(node).size == 0
    guest.forget(node)
    with pytest.raises(OSError):
        guest.attributes(node)
    guest.forget(1, 2**64 - 1)
    assert guest.look_up("a") not in (0, node)


def test_a_large_directory_is_listed_whole_in_pieces(guest: FuseGuest, shared: Path) -> None:
    names = {f"file-{number:04}" for number in range(700)}
    for name in names:
        (shared / name).touch()
    for size in (1024, 4096, 65536):
        listed = guest.list(size=size)
        assert listed.keys() == names | {".", ".."}
        assert all(node for name, node in listed.items() if not name.startswith("."))


def test_renames_may_refuse_to_replace_and_exchange(guest: FuseGuest, shared: Path) -> None:
    (shared / "a").write_text("a")
    (shared / "b").write_text("b")
    a, b = guest.look_up("a"), guest.look_up("b")
    with pytest.raises(FileExistsError):
        guest.rename("a", "b", 1)
    guest.rename("a", "b", 2)
    assert (shared / "a").read_text() == "b"
    assert guest.read(guest.open(a)) == b"a"
    assert guest.read(guest.open(b)) == b"b"
    with pytest.raises(OSError):
        guest.rename("a", "b", 4)


def test_extended_attributes_and_what_is_unknown_are_not_there(guest: FuseGuest) -> None:
    for op in (fuse.GETXATTR, 39, 51, 4095, 2**32 - 1):
        assert guest.error(op, 1, bytes(64)) == "ENOSYS"


def test_a_kernel_that_is_too_old_is_refused(guest: FuseGuest) -> None:
    answer = guest.ask(fuse.INIT, 0, struct.pack("=IIII", 7, 31, 131072, 2**32 - 1))
    _, minor, _, flags, _, _, write = struct.unpack_from("=IIIIHHI", answer)
    assert (minor, write) == (31, 1 << 20)
    assert not flags & 1 << 16  # the writeback cache
    with pytest.raises(ProtocolError):
        guest.ask(fuse.INIT, 0, struct.pack("=IIII", 7, 22, 131072, 0))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
