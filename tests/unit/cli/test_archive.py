"""Archives that a sandbox made are unpacked beneath one directory, whatever they hold."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mas_sandbox.cli.archive import packed, unpack
from mas_sandbox.sdk.errors import BadReply, InvalidRequest

Item = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "", mode: int = 0o644) -> Item:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, target, mode
    return info, b""


def file(name: str, content: bytes, mode: int = 0o644) -> Item:
    info, _ = member(name, mode=mode)
    info.size = len(content)
    return info, content


def pax(name: str, **headers: str) -> Item:
    info, _ = member(name)
    info.pax_headers = headers
    return info, b""


def link(name: str, target: str) -> Item:
    return member(name, tarfile.SYMTYPE, target)


def archive(*items: Item) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in items:
            tar.addfile(info, io.BytesIO(content))
    return made.getvalue()


def pieces(data: bytes) -> Iterator[bytes]:
    """As they may come: cut anywhere."""
    return (data[start : start + 1000] for start in range(0, len(data), 1000))


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """In a directory of its own, next to which everything is to stay as it is."""
    (tmp_path / "around").mkdir()
    return tmp_path / "around" / "target"


def test_files_directories_links_and_modes_are_unpacked(target: Path) -> None:
    content = os.urandom(100_000)
    count: list[int] = []
    data = archive(
        member("d", tarfile.DIRTYPE, mode=0o500),
        file("d/" + "x" * 150, content, mode=0o751),
        link("d/l", "x" * 150),
        link("up", "d"),
    )
    assert unpack(pieces(data), target, count.append) == []
    made = target / "d" / ("x" * 150)
    assert (made.read_bytes(), made.stat().st_mode & 0o777) == (content, 0o751)
    assert (target / "d/l").read_bytes() == (target / "up/l").read_bytes() == content
    assert sum(count) == len(data)
    assert os.listdir(target.parent) == ["target"]


@pytest.mark.parametrize(
    "items",
    [
        [file("../evil", b"x")],
        [file("/evil", b"x")],
        [file("a/../../evil", b"x")],
        [file("d/" * 300 + "evil", b"x")],
        [pax("evil", path="d/\0evil")],
        [member("fifo", tarfile.FIFOTYPE)],
        [member("null", tarfile.CHRTYPE)],
        [member("hard", tarfile.LNKTYPE, "/etc/passwd")],
    ],
)
def test_what_no_sandbox_packs_is_refused_and_nothing_is_left(
    items: list[Item], target: Path
) -> None:
    for info, _ in items:
        if info.name.startswith("/"):
            info.name = f"{target.parent.parent}{info.name}"
    with pytest.raises(BadReply):
        unpack(pieces(archive(file("before", b"x"), *items)), target, print)
    assert os.listdir(target.parent) == []
    assert os.listdir(target.parent.parent) == ["around"]


@pytest.mark.parametrize(
    "links",
    [
        [link("evil", "/etc")],
        [link("evil", "..")],
        [link("d/evil", "../..")],
        [link("evil", "d/../../x")],
        [link("d/d/short", "../.."), link("d/d/evil", "short/../..")],
        # Through the first the second is less deep than it looks.
        [link("d/short", ".."), link("d/short/evil", "..")],
    ],
)
def test_links_that_lead_out_are_left_out(links: list[Item], target: Path) -> None:
    data = archive(member("d", tarfile.DIRTYPE), *links)
    left_out = unpack(pieces(data), target, lambda count: None)
    assert left_out == [links[-1][0].name]
    assert not list(target.rglob("evil"))


def test_a_file_behind_a_link_is_not_written_through_it(target: Path, tmp_path: Path) -> None:
    data = archive(link("d", "../../outside"), file("d/evil", b"x"))
    (tmp_path / "outside").mkdir()
    unpack(pieces(data), target, lambda count: None)
    assert (target / "d/evil").read_bytes() == b"x"
    assert os.listdir(tmp_path / "outside") == []


def test_what_is_there_is_replaced_and_the_rest_stays(target: Path) -> None:
    (target / "d").mkdir(parents=True)
    (target / "d/old").write_text("old")
    (target / "d/same").write_text("old")
    data = archive(file("d/same", b"new"), file("new", b"new"))
    unpack(pieces(data), target, lambda count: None)
    assert {path.name: path.read_text() for path in target.rglob("*") if path.is_file()} == {
        "old": "old",
        "same": "new",
        "new": "new",
    }
    assert os.listdir(target.parent) == ["target"]


def test_a_link_of_ours_where_a_directory_is_to_be_is_not_followed(
    target: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    target.mkdir()
    (target / "d").symlink_to(tmp_path / "outside")
    with pytest.raises(InvalidRequest, match="is a link; remove it first"):
        unpack(pieces(archive(file("d/evil", b"x"))), target, lambda count: None)
    assert os.listdir(tmp_path / "outside") == []


def test_an_archive_that_breaks_off_leaves_nothing(target: Path) -> None:
    data = archive(file("a", bytes(50_000)))
    with pytest.raises(BadReply, match="cannot be read"):
        unpack(pieces(data[:20_000]), target, lambda count: None)
    assert os.listdir(target.parent) == []


def test_a_description_of_any_length_is_not_held_in_memory(target: Path) -> None:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    taken: list[int] = []

    def endless() -> Iterator[bytes]:
        yield info.tobuf()
        while sum(taken) < 100_000_000:
            yield bytes(1 << 20)

    with pytest.raises(BadReply, match="describes an entry"):
        unpack(endless(), target, taken.append)
    assert sum(taken) < 5_000_000


def test_descriptions_of_descriptions_come_to_an_end(target: Path) -> None:
    about = tarfile.TarInfo("pax")
    about.type = tarfile.XGLTYPE
    with pytest.raises(BadReply, match="cannot be read"):
        unpack([about.tobuf()] * 10_000, target, lambda _: None)
    assert not target.exists()


def test_a_directory_is_packed_as_it_is_read(tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    (tmp_path / "big").write_bytes(content)
    (tmp_path / "l").symlink_to("big")
    os.mkfifo(tmp_path / "fifo")
    with packed(str(tmp_path)) as source, tarfile.open(fileobj=source, mode="r|") as tar:
        found = {each.name: (each.type, each.uid, each.size) for each in tar}
    assert found == {"big": (tarfile.REGTYPE, 0, len(content)), "l": (tarfile.SYMTYPE, 0, 0)}


def test_who_stops_reading_leaves_no_packer(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(3_000_000))
    before = threading.active_count()
    with packed(str(tmp_path)) as source:
        source.read(1000)
    assert threading.active_count() == before


def test_what_cannot_be_packed_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(InvalidRequest, match="nonesuch: No such file"),
        packed(str(tmp_path / "nonesuch")) as source,
    ):
        source.read()
