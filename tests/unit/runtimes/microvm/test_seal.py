"""Templates are used as they were written, or not at all."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm import seal
from mas_sandbox.runtimes.microvm.seal import CHUNK, FileDigests, Manifest, Seals
from mas_sandbox.wire.errors import ErrorCode, SandboxError

MANIFEST = Manifest("qemu", "key", b"hello", 12.5)
NAMES = ("memory", "state")


@pytest.fixture
def seals(tmp_path: Path) -> Seals:
    return Seals(tmp_path / "template.key")


@pytest.fixture
def template(tmp_path: Path, seals: Seals) -> Path:
    directory = tmp_path / "template"
    directory.mkdir()
    sparse(directory / "memory", 8 * CHUNK, {0: b"kernel", 5 * CHUNK + 17: b"heap"})
    (directory / "state").write_bytes(b"devices" * 100)
    (directory / "state").chmod(0o644)
    seals.seal(directory, MANIFEST, NAMES)
    return directory


def sparse(path: Path, size: int, data: dict[int, bytes]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.ftruncate(descriptor, size)
    for offset, content in data.items():
        os.pwrite(descriptor, content, offset)
    os.close(descriptor)


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return seal.digest(file.fileno())


def refuse(seals: Seals, directory: Path, driver: str = "qemu", key: str = "key") -> str:
    """Why both ways of opening it refuse it."""
    with pytest.raises(SandboxError) as verified:
        seals.verify(directory, driver, key)
    with pytest.raises(SandboxError) as loaded:
        seals.load(directory, driver, key)
    assert verified.value.code is loaded.value.code is ErrorCode.SANDBOX_CRASH
    assert str(directory) in verified.value.message
    assert verified.value.message == loaded.value.message
    return verified.value.message


def test_digest_does_not_depend_on_holes(tmp_path: Path) -> None:
    content = bytearray(5 * CHUNK + 100)
    content[3 * CHUNK : 3 * CHUNK + 4] = b"data"
    (tmp_path / "full").write_bytes(content)
    sparse(tmp_path / "holes", len(content), {3 * CHUNK: b"data"})
    assert digest_of(tmp_path / "full") == digest_of(tmp_path / "holes")


@pytest.mark.parametrize("offset", [0, CHUNK - 1, CHUNK, 3 * CHUNK + 99])
def test_digest_changes_with_any_bit(tmp_path: Path, offset: int) -> None:
    sparse(tmp_path / "zeros", 3 * CHUNK + 100, {})
    sparse(tmp_path / "flipped", 3 * CHUNK + 100, {offset: b"\x01"})
    assert digest_of(tmp_path / "zeros") != digest_of(tmp_path / "flipped")


def test_digest_changes_where_data_moves_or_zeros_are_appended(tmp_path: Path) -> None:
    sparse(tmp_path / "first", 3 * CHUNK, {0: b"data"})
    sparse(tmp_path / "second", 3 * CHUNK, {CHUNK: b"data"})
    sparse(tmp_path / "longer", 4 * CHUNK, {0: b"data"})
    assert len({digest_of(tmp_path / name) for name in ("first", "second", "longer")}) == 3


def test_copy_keeps_holes_and_says_the_digest_of_what_it_wrote(tmp_path: Path) -> None:
    sparse(tmp_path / "source", 64 * CHUNK, {40 * CHUNK: b"data"})
    with (tmp_path / "source").open("rb") as source, (tmp_path / "target").open("w+b") as target:
        said = seal.copy(source.fileno(), target.fileno())
        assert said == seal.digest(source.fileno()) == seal.digest(target.fileno())
        assert os.fstat(target.fileno()).st_blocks * 512 <= 2 * CHUNK
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()


def test_what_was_sealed_is_opened(template: Path, seals: Seals) -> None:
    manifest = seals.verify(template, "qemu", "key")
    assert manifest == replace(MANIFEST, files=manifest.files)
    assert set(manifest.files) == set(NAMES)


def test_sealed_files_are_their_owners_alone(template: Path) -> None:
    assert {path.stat().st_mode & 0o777 for path in template.iterdir()} == {0o600}


@pytest.mark.parametrize("name", [*NAMES, seal.MANIFEST])
def test_one_flipped_bit_is_refused(template: Path, seals: Seals, name: str) -> None:
    content = bytearray((template / name).read_bytes())
    content[len(content) // 2] ^= 1
    (template / name).write_bytes(content)
    refuse(seals, template)


@pytest.mark.parametrize("name", [*NAMES, seal.MANIFEST])
def test_a_truncated_file_is_refused(template: Path, seals: Seals, name: str) -> None:
    os.truncate(template / name, (template / name).stat().st_size - 1)
    refuse(seals, template)


@pytest.mark.parametrize("name", [*NAMES, seal.MANIFEST])
def test_a_missing_file_is_refused(template: Path, seals: Seals, name: str) -> None:
    (template / name).unlink()
    assert name in refuse(seals, template)


def test_a_file_behind_a_link_is_refused(template: Path, seals: Seals, tmp_path: Path) -> None:
    (template / "state").rename(tmp_path / "elsewhere")
    (template / "state").symlink_to(tmp_path / "elsewhere")
    refuse(seals, template)


def test_a_template_sealed_by_someone_else_is_refused(template: Path, tmp_path: Path) -> None:
    assert "not sealed with" in refuse(Seals(tmp_path / "another.key"), template)


def test_a_template_of_something_else_is_refused(template: Path, seals: Seals) -> None:
    assert "another" in refuse(seals, template, driver="firecracker")
    assert "another" in refuse(seals, template, key="changed")


def test_loading_leaks_no_descriptor(template: Path, seals: Seals) -> None:
    seals.verify(template, "qemu", "key")
    before = os.listdir("/dev/fd")
    _, files = seals.load(template, "qemu", "key")
    for descriptor in files.values():
        os.close(descriptor)
    (template / "state").write_bytes(b"")
    refuse(seals, template)
    assert os.listdir("/dev/fd") == before


def test_a_loaded_copy_can_be_written_to_by_nobody(template: Path, seals: Seals) -> None:
    _, files = seals.load(template, "qemu", "key")
    (template / "memory").write_bytes(b"altered")
    memory = files["memory"]
    again = os.open(f"/proc/self/fd/{memory}", os.O_RDWR)  # as a monitor opens it
    for descriptor in (memory, again):
        with pytest.raises(PermissionError):
            os.pwrite(descriptor, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
        with pytest.raises(PermissionError):
            mmap.mmap(descriptor, CHUNK, mmap.MAP_SHARED)
    with mmap.mmap(again, CHUNK, mmap.MAP_PRIVATE) as private:
        private[:6] = b"cloned"
    assert os.pread(memory, 6, 0) == b"kernel"
    for descriptor in (again, *files.values()):
        os.close(descriptor)


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "template.key"
    assert seal.load_key(path) == seal.load_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["template.key"]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.chmod(0o640), "chmod 600"),
        (lambda path: path.write_bytes(b"short"), "not a key"),
        (lambda path: (path.unlink(), path.mkdir()), "not a file"),
    ],
)
def test_a_key_that_others_may_know_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    path = tmp_path / "template.key"
    seal.load_key(path)
    spoil(path)
    with pytest.raises(OSError, match=why):
        seal.load_key(path)


def test_file_digests_notice_a_changed_file(tmp_path: Path) -> None:
    digests, path = FileDigests(), tmp_path / "kernel"
    path.write_bytes(b"one")
    first = digests.of(path)
    assert digests.of(path) == first
    status = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests.of(path) != first


def test_a_missing_file_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"vmlinuz.*image build"):
        FileDigests().of(tmp_path / "vmlinuz")
    with pytest.raises(SandboxError, match="not a plain file"):
        FileDigests().of(tmp_path)


def test_a_template_key_changes_with_each_fact_and_not_with_their_order() -> None:
    facts = {"kernel": "aa", "mem_mib": 256, "drives": [["data", "bb"]]}
    same = seal.template_key(dict(reversed(facts.items())))
    assert seal.template_key(facts) == same
    for name in facts:
        assert seal.template_key(facts | {name: "other"}) != same
    assert len(same) == 32


def test_the_processor_is_told_from_others() -> None:
    assert len(seal.processor()) > 5
