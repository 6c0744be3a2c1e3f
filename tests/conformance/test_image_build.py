"""An image from a root file system that has nothing: no Python, no shell, no C library."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.booted import BOOT_S, BootedMachine
from doubles.host import Link
from mas_sandbox.runtimes.microvm.image.build import ImageOptions, build_image
from mas_sandbox.runtimes.microvm.image.store import Image, find_image

pytestmark = pytest.mark.serial

UNCHANGED_S = 5.0


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bare")
    with tarfile.open(directory / "bare.tar", "w") as packed:
        note = tarfile.TarInfo("srv/note")
        note.size, note.mode = 5, 0o644
        packed.addfile(note, io.BytesIO(b"hello"))
        hostile = tarfile.TarInfo("dev")
        hostile.type, hostile.linkname = tarfile.SYMTYPE, "/etc"
        packed.addfile(hostile)
    return directory / "bare.tar"


@pytest.fixture(scope="module")
def image(bare: Path) -> Image:
    """Debian's parts come from the store's cache, which is left as it is."""
    return build_image(ImageOptions(source=str(bare), out=bare.parent / "image"))


@pytest.fixture(scope="module")
def link(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    machine = BootedMachine(image, tmp_path_factory.mktemp("machine"))
    try:
        attached = machine.attach()
        attached.until(lambda: attached.hello is not None, BOOT_S)
        attached.welcome({}, entropy=b"\x55" * 32, time_ns=time.time_ns(), hostname="bare")
        yield attached
    finally:
        machine.stop()


def test_the_toolrunner_comes_up_with_a_python_that_was_carried(link: Link, image: Image) -> None:
    assert image.python.endswith("carried")
    assert link.hello is not None
    assert sorted(link.hello.controls) == ["disk", "disk_files", "memory", "paths", "pids"]


def test_python_runs_and_its_standard_library_is_there(link: Link) -> None:
    code = (
        "import asyncio, ctypes, decimal, hashlib, json, pathlib, re, sqlite3, ssl, sys, zlib\n"
        "import multiprocessing, subprocess, unicodedata, urllib.request, zoneinfo\n"
        "print(open('/srv/note').read(), hashlib.sha256(b'').hexdigest()[:8])\n"
        "print(subprocess.run([sys.executable, '-c', 'print(7)'], capture_output=True).stdout)\n"
    )
    call = link.call("python", {"code": code})
    assert call.result is not None
    assert (call.result.exit_code, call.stderr) == (0, b"")
    assert call.stdout == b"hello e3b0c442\nb'7\\n'\n"


def test_the_root_is_as_it_was_but_for_what_init_needs(link: Link) -> None:
    call = link.call("python", {"code": "import os; print(*sorted(os.listdir('/')))"})
    expected = "dev etc lost+found opt proc run srv sys tmp workspace"
    assert call.stdout.decode().split() == expected.split()


def test_what_has_not_changed_is_not_built_again(bare: Path, image: Image) -> None:
    started = time.monotonic()
    again = build_image(ImageOptions(source=str(bare), out=bare.parent / "image"))
    assert time.monotonic() - started < UNCHANGED_S
    assert again == image
    with tarfile.open(bare, "a") as packed:
        packed.addfile(tarfile.TarInfo("more"))
    changed = build_image(ImageOptions(source=str(bare), out=bare.parent / "image"))
    assert changed.inputs != image.inputs
    changed.verify()
    assert sorted(os.listdir(bare.parent)) == ["bare.tar", "image"], "nothing is left beside it"


def test_the_current_image_is_whole() -> None:
    image = find_image()
    image.verify()
    assert image.vmlinux is not None
    assert image.vmlinux.read_bytes()[:4] == b"\x7fELF"
