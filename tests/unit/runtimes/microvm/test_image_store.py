"""The images on a host: found, checked before use, replaced and removed whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.runtimes.microvm.image import store
from mas_sandbox.runtimes.microvm.image.store import Image, find_image, list_images, remove_image
from mas_sandbox.wire.errors import ErrorCode, SandboxError

FACTS: dict[str, Any] = {
    "inputs": "1" * 64,
    "kernel_version": "6.1.0",
    "built_at": 1000.0,
    "source": "debian bookworm",
    "python": "python3.11, its own",
    "toolrunner": "2" * 32,
}


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    directory = store.image_directory()
    directory.mkdir(parents=True)
    return directory


def kept(content: bytes = b"", directory: Path | None = None, **facts: Any) -> Image:
    built = store.image_directory() / ".building"
    built.mkdir()
    files = ["vmlinux", "vmlinuz", "initrd.img", "rootfs.ext4"]
    for name in files:
        (built / name).write_bytes(name.encode() + content)
    return store.keep(built, files, FACTS | facts, directory)


def test_the_image_built_last_is_found() -> None:
    kept(b"1")
    second = kept(b"2")
    assert find_image() == second
    second.verify()
    assert second.kernel.read_bytes() == b"vmlinux2"
    assert second.rootfs.read_bytes() == b"rootfs.ext42"


def test_without_an_image_the_command_is_named() -> None:
    with pytest.raises(SandboxError, match="run `mas-sandbox image build`") as caught:
        find_image()
    assert caught.value.code is ErrorCode.SANDBOX_CRASH


def test_an_image_elsewhere_is_found_by_its_path(tmp_path: Path) -> None:
    there = tmp_path / "there"
    made = kept(directory=there)
    assert made.directory == there
    assert find_image(there) == made
    (tmp_path / "link").symlink_to(there)
    assert find_image(tmp_path / "link") == made
    with pytest.raises(SandboxError):
        find_image()
    with pytest.raises(SandboxError, match="image build"):
        find_image(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["vmlinux", "initrd.img", "rootfs.ext4"])
def test_an_altered_file_is_named(name: str) -> None:
    image = kept()
    path = image.directory / name
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(SandboxError, match=f"{path} cannot be used: its content is not what"):
        image.verify()


def test_a_missing_file_is_named() -> None:
    image = kept()
    image.rootfs.unlink()
    with pytest.raises(SandboxError, match=r"rootfs\.ext4"):
        find_image()
    with pytest.raises(SandboxError, match=r"rootfs\.ext4"):
        image.verify()


@pytest.mark.parametrize("name", ["", "vmlinux", "rootfs.ext4"])
def test_what_someone_else_could_have_written_is_refused(name: str) -> None:
    path = kept().directory / name
    path.chmod(path.stat().st_mode | 0o002)
    with pytest.raises(SandboxError, match="written by someone else"):
        find_image()


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"digest": "0" * 64},
        {"files": {"../../etc/passwd": "0" * 64}},
        {"files": {}},
        {"files": None},
        {"surprise": 1},
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    image = kept()
    path = image.directory / "image.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(SandboxError, match=r"image\.json cannot be used"):
        find_image()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 1}', " " * 100_000])
def test_a_manifest_that_is_none_is_refused(text: str) -> None:
    image = kept()
    (image.directory / "image.json").write_text(text)
    with pytest.raises(SandboxError, match=r"image\.json cannot be used"):
        find_image()
    assert list_images() == []


def test_images_are_listed_the_newest_first() -> None:
    old = kept(b"1", built_at=5.0)
    new = kept(b"2", built_at=7.0)
    assert list_images() == [new, old]


def test_an_image_is_removed_by_the_beginning_of_its_digest(images: Path) -> None:
    old = kept(b"1", built_at=5.0)
    new = kept(b"2", built_at=7.0)
    assert remove_image(new.digest[:10]) == new.digest
    assert find_image() == old, "the newest that is left is the current one"
    remove_image(old.digest)
    assert list_images() == []
    assert sorted(os.listdir(images)) == [".lock"]


@pytest.mark.parametrize("prefix", ["", "..", "zz", "current"])
def test_only_one_image_is_ever_removed(prefix: str) -> None:
    kept(b"1")
    kept(b"2")
    with pytest.raises(SandboxError) as caught:
        remove_image(prefix)
    assert caught.value.code is ErrorCode.INVALID_REQUEST
    assert len(list_images()) == 2


def test_the_same_content_built_again_is_one_image(images: Path) -> None:
    first = kept()
    second = kept(built_at=2000.0)
    assert first.digest == second.digest
    assert find_image().built_at == 2000.0
    assert len(list_images()) == 1
