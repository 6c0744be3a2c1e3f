"""sandbox.pack and unpack: what comes back is what went in, and nothing lands outside."""

from __future__ import annotations

import gzip
import io
import os
import stat
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from doubles.inside import Ran, inside
from mas_sandbox.guest.files import Files
from mas_sandbox.guest.tools.inside import source
from mas_sandbox.guest.tools.inside.tar import Member, encode

END = bytes(1024)
Change = Callable[[tarfile.TarInfo], None]


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    top = tmp_path / "ws"
    (top / "in").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "sentinel").write_bytes(b"the sentinel")
    (top / "beside").write_bytes(b"beside")
    return top


@pytest.fixture
def files(workspace: Path) -> Files:
    return Files([("/workspace", "rw")], str(workspace))


def item(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, type=tarfile.SYMTYPE, linkname=target)


def hard(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return item(name, type=tarfile.LNKTYPE, linkname=target)


def archive(*items: tuple[tarfile.TarInfo, bytes], kind: int = tarfile.PAX_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=kind) as tar:
        for info, data in items:
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def unpack(files: Files, data: bytes, **args: object) -> Ran:
    return inside(files, "sandbox.unpack", data, path="/workspace/in", **args)


def members(data: bytes) -> list[tuple[object, ...]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [
            (
                info.name,
                info.type,
                info.mode,
                info.linkname,
                info.isreg() and tar.extractfile(info).read(),
            )  # type: ignore[union-attr]
            for info in tar
        ]


def untouched(workspace: Path) -> bool:
    outside = workspace.parent / "outside"
    return (
        os.listdir(outside) == ["sentinel"]
        and (outside / "sentinel").read_bytes() == b"the sentinel"
        and (workspace / "beside").read_bytes() == b"beside"
        and sorted(os.listdir(workspace)) == ["beside", "in"]
        and sorted(os.listdir(workspace.parent)) == ["outside", "ws"]
    )


def test_a_tree_comes_back_as_it_was(files: Files, workspace: Path) -> None:
    tree = workspace / "in"
    deep = tree / ("long" * 30) / ("é" * 60)
    deep.mkdir(parents=True)
    (deep / os.fsdecode(b"\xff name")).write_bytes(os.urandom(200_000))
    (tree / "run").write_bytes(b"#!/bin/sh\n")
    (tree / "run").chmod(0o4755)
    os.utime(tree / "run", (1e9, 1e9))
    (tree / "empty").mkdir(mode=0o700)
    (tree / "l").symlink_to("x" * 150)
    os.mkfifo(tree / "p")
    packed = inside(files, "sandbox.pack", path="in")
    assert packed.value == {"entries": 6, "bytes": 200_010, "skipped": 1}
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        assert tar.getnames() == sorted(tar.getnames())
        assert tar.getmember("l").linkname == "x" * 150
        assert tar.getmember("run").mode == 0o755
    (workspace / "again").mkdir()
    done = inside(files, "sandbox.unpack", packed.stdout, path="again")
    assert done.value == {"entries": 6, "bytes": 200_010}
    again = inside(files, "sandbox.pack", path="again").stdout
    assert members(again) == members(packed.stdout)
    assert (workspace / "again/run").stat().st_mtime == 1e9


def test_a_file_is_packed_by_its_own_name(files: Files, workspace: Path) -> None:
    packed = inside(files, "sandbox.pack", path="/workspace/beside")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as tar:
        assert tar.getnames() == ["beside"]
    assert inside(files, "sandbox.pack", path="none").reason == "not_found"


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("compressed", [False, True])
def test_every_common_format_is_read(
    files: Files, workspace: Path, kind: int, compressed: bool
) -> None:
    name = "d/" * 40 + "n" * 60
    data = archive(
        item(name, b"one"),
        item("./two", b"2" * 70_000, mtime=12, mode=0o640),
        hard("three", "two"),
        link("four", "d/d"),
        item("old/", b"", type=tarfile.AREGTYPE),
        kind=kind,
    )
    done = unpack(files, gzip.compress(data) if compressed else data)
    assert done.value == {"entries": 5, "bytes": 70_003}
    tree = workspace / "in"
    assert (tree / name).read_bytes() == b"one"
    assert (tree / "two").stat().st_ino == (tree / "three").stat().st_ino
    assert (tree / "two").stat().st_mode & 0o7777 == 0o640
    assert os.readlink(tree / "four") == "d/d"
    assert (tree / "old").is_dir()


def test_what_was_there_is_replaced_and_never_written_through(
    files: Files, workspace: Path
) -> None:
    tree = workspace / "in"
    (tree / "soft").symlink_to("../beside")
    os.link(workspace / "beside", tree / "hard")
    (tree / "file").write_bytes(b"old")
    names = ("soft", "hard", "file")
    assert unpack(files, archive(*(item(name, b"new") for name in names))).code == ""
    assert all((tree / name).read_bytes() == b"new" for name in names)
    assert not (tree / "soft").is_symlink()
    assert untouched(workspace)


def test_rights_are_not_gained(files: Files, workspace: Path) -> None:
    data = archive(item("s", b"x", mode=0o7777), item("d", type=tarfile.DIRTYPE, mode=0o7000))
    assert unpack(files, data).code == ""
    assert stat.S_IMODE((workspace / "in/s").stat().st_mode) == 0o777
    assert stat.S_IMODE((workspace / "in/d").stat().st_mode) == 0o700


HOSTILE = {
    "parent": [item("../evil", b"x")],
    "parent in the middle": [item("a/../../evil", b"x")],
    "parent that stays inside": [item("d", type=tarfile.DIRTYPE), item("d/../evil", b"x")],
    "absolute": [item("/tmp/mas-evil", b"x")],
    "absolute link": [link("l", "/etc/passwd")],
    "link that climbs": [link("l", "..")],
    "link that climbs from below": [link("a/l", "../..")],
    "link that climbs later": [link("a/l", "b/../../..")],
    "write through a link": [link("a/l", "../a"), item("a/l/evil", b"x")],
    "directory through a link": [link("l", "."), item("l/evil", type=tarfile.DIRTYPE)],
    "chain of links": [link("a/up", ".."), link("b", "a/up/..")],
    "chain of links backwards": [link("b", "a/up/.."), link("a/up", "..")],
    "hard link to the outside": [hard("h", "../beside")],
    "hard link to an absolute path": [hard("h", "/etc/passwd")],
    "hard link to a link": [link("a", "b"), hard("h", "a")],
    "hard link through a link": [link("a", "."), item("f"), hard("h", "a/f")],
    "FIFO": [item("p", type=tarfile.FIFOTYPE)],
    "device": [item("n", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "unknown": [item("u", type=b"Z")],
    "a file for the directory": [item("./", type=tarfile.LNKTYPE, linkname="f")],
    "NUL": [item("a", b"x", pax_headers={"path": "a\0b"})],
    "too deep": [item("d/" * 101 + "f")],
    "too long a name": [item("n" * 300, b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_member_is_refused(files: Files, workspace: Path, name: str) -> None:
    done = unpack(files, archive(*HOSTILE[name]))
    assert done.code in ("invalid_request", "tool_failed"), done
    assert done.code != "broken"
    assert untouched(workspace)
    assert not (workspace / "in/evil").exists()
    for path in (workspace / "in").rglob("*"):
        resolved = path.resolve()
        assert resolved.is_relative_to(workspace / "in"), f"{path} leads to {resolved}"


def test_a_hard_link_to_itself_loses_nothing(files: Files, workspace: Path) -> None:
    assert unpack(files, archive(item("f", b"x"), hard("f", "./f"))).code == "invalid_request"
    assert (workspace / "in/f").read_bytes() == b"x"


def test_a_link_that_was_there_is_not_followed(files: Files, workspace: Path) -> None:
    (workspace / "in/out").symlink_to("../../outside")
    (workspace / "in/up").symlink_to("..")
    for name in ("out/evil", "up/evil", "out/sentinel", "up/beside"):
        assert unpack(files, archive(item(name, b"x"))).code == "invalid_request"
        assert unpack(files, archive(hard("h", name))).code != ""
    assert untouched(workspace)


def test_a_directory_in_the_way_of_a_file_stays(files: Files, workspace: Path) -> None:
    (workspace / "in/d").mkdir()
    assert unpack(files, archive(item("d", b"x"))).reason == "is_a_directory"
    (workspace / "in/f").write_bytes(b"")
    assert unpack(files, archive(item("f/x", b"x"))).reason == "not_a_directory"


def test_a_read_only_path_inside_stays_as_it_is(workspace: Path) -> None:
    (workspace / "in/ro").mkdir()
    (workspace / "in/ro/f").write_bytes(b"kept")
    files = Files([("/workspace", "rw"), ("/workspace/in/ro", "ro")], str(workspace))
    for hostile in (item("ro/f", b"x"), item("ro/new", b"x"), hard("h", "ro/f"), item("ro", b"x")):
        assert unpack(files, archive(hostile)).code != ""
    assert (workspace / "in/ro/f").read_bytes() == b"kept"
    assert os.listdir(workspace / "in") == ["ro"]
    read_only = Files([("/workspace", "ro")], str(workspace))
    assert unpack(read_only, archive(item("f"))).reason == "permission"


def test_the_bounds_hold(files: Files, workspace: Path) -> None:
    many = archive(*(item(f"{number}") for number in range(20)))
    assert unpack(files, many, max_entries=20).value == {"entries": 20, "bytes": 0}
    assert unpack(files, many, max_entries=19).reason == "too_large"
    two = archive(item("a", b"x" * 600), item("b", b"x" * 600))
    assert unpack(files, two, max_bytes=1200).code == ""
    (workspace / "in/b").unlink()
    assert unpack(files, two, max_bytes=1199).reason == "too_large"
    assert not (workspace / "in/b").exists()


def test_a_size_that_is_a_lie_is_refused_before_a_byte_is_written(
    files: Files, workspace: Path
) -> None:
    lie = encode(Member(b"0", b"f", target=b"", mode=0o644, size=2**40, mtime=0))
    assert unpack(files, lie + b"x" * 4096).reason == "too_large"
    assert os.listdir(workspace / "in") == []


def test_a_bomb_is_not_inflated(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_FREE", 1024 * 1024)
    small = gzip.compress(archive(item("f", bytes(900_000))))
    assert unpack(files, small).code == ""
    bomb = gzip.compress(archive(item("f", bytes(100 * 1024 * 1024))))
    assert len(bomb) < 1024 * 1024
    assert unpack(files, bomb).reason == "too_large"


@pytest.mark.parametrize("compressed", [False, True])
def test_half_an_archive_is_told_from_a_whole_one(
    files: Files, workspace: Path, compressed: bool
) -> None:
    data = archive(item("f", os.urandom(5000)), item("g", os.urandom(5000)))
    data = gzip.compress(data) if compressed else data.rstrip(b"\0")
    for length in (0, 1, 700, 5000, len(data) - 600):
        cut = unpack(files, data[:length])
        assert (cut.code, "cut short" in cut.message) == ("invalid_request", True), length
    assert not (workspace / "in/g").exists()


def corrupt(field: slice, value: bytes, check: bool = True) -> bytes:
    block = bytearray(encode(Member(b"0", b"f", target=b"", mode=0o644, size=0, mtime=0)))
    block[field] = value
    if check:
        block[148:156] = b" " * 8
        block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + END


def described(records: bytes, kind: bytes = b"x", size: int | None = None) -> bytes:
    header = corrupt(slice(156, 157), kind)[:512]
    block = bytearray(header)
    block[124:136] = b"%011o\0" % (len(records) if size is None else size)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + records + bytes(-len(records) % 512) + corrupt(slice(0, 0), b"")


MALFORMED = {
    "checksum": corrupt(slice(0, 1), b"g", check=False),
    "digits": corrupt(slice(124, 136), b"12 4x67\0\0\0\0\0"),
    "negative size": corrupt(slice(124, 136), b"\xff" * 12),
    "huge size": corrupt(slice(124, 136), b"\x80" + b"\xff" * 11),
    "GNU sparse": corrupt(slice(156, 157), b"S"),
    "pax sparse": described(b"22 GNU.sparse.major=1\n"),
    "record without length": described(b"path=x\n"),
    "record of length nothing": described(b"0 path=x\n"),
    "record that ends beyond": described(b"99 path=x\n"),
    "record of another length": described(b"9 path=xyz\n"),
    "record with a size that is none": described(b"11 size=-1\n"),
    "description without end": described(b"", size=2**33 - 1),
    "long description": described(b"2097152 comment=".ljust(2**21 - 1) + b"\n"),
    "nothing but descriptions": described(b"", kind=b"g", size=0)[:512] * 9 + described(b""),
    "text": b"this is no archive" * 100,
    "gzip of nothing": b"\x1f\x8b" + b"\xff" * 600,
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_archive_is_refused(files: Files, workspace: Path, name: str) -> None:
    done = unpack(files, MALFORMED[name])
    assert done.code == "invalid_request", done
    assert os.listdir(workspace / "in") == []


def test_noise_in_place_of_an_archive_only_ever_fails(files: Files, workspace: Path) -> None:
    good = archive(item("d/f", b"x" * 1000), link("l", "d"), hard("h", "d/f"))
    for seed in range(40):
        noise = bytearray(good)
        for position in struct.unpack("8H", os.urandom(16)):
            noise[position % 4096] = (seed * 37 + position) % 256
        assert unpack(files, bytes(noise)).code != "broken"
    assert untouched(workspace)


def test_a_sparse_file_is_packed_as_zeros(files: Files, workspace: Path) -> None:
    with (workspace / "in/big").open("wb") as big:
        big.truncate(64 * 1024 * 1024 + 1)
    packed = inside(files, "sandbox.pack", path="in")
    assert len(packed.stdout) == 512 + 64 * 1024 * 1024 + 512 + 1024
