"""The library that leaves a flag out of statx."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import subprocess
from pathlib import Path

import pytest

from mas_sandbox.runtimes.gvisor.statx import library

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is for x86-64")

INVALID, NO_AUTOMOUNT, BASIC = 0x40000000, 0x800, 0x7FF


@pytest.fixture
def built(tmp_path: Path) -> Path:
    path = tmp_path / "statx.so"
    path.write_bytes(library())
    return path


def test_it_answers_as_the_kernel_does(built: Path, tmp_path: Path) -> None:
    statx = ctypes.CDLL(str(built), use_errno=True).statx
    space = ctypes.create_string_buffer(256)
    file = tmp_path / "file"
    file.write_bytes(b"x" * 123)
    assert statx(-100, os.fsencode(file), NO_AUTOMOUNT, BASIC, space) == 0
    assert int.from_bytes(space[40:48], "little") == 123  # stx_size
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        assert statx(directory, b"file", NO_AUTOMOUNT, BASIC, space) == 0
    finally:
        os.close(directory)
    assert statx(-100, b"/absent", NO_AUTOMOUNT, BASIC, space) == -1
    assert ctypes.get_errno() == errno.ENOENT
    assert statx(-100, b"/", INVALID, BASIC, space) == -1
    assert ctypes.get_errno() == errno.EINVAL


def test_programs_run_with_it(built: Path) -> None:
    listed = subprocess.run(
        ["/bin/ls", "-l", "/usr"],
        env={"LD_PRELOAD": str(built), "LC_ALL": "C"},
        capture_output=True,
        check=True,
    )
    assert b"bin" in listed.stdout
    assert listed.stderr == b""  # where the loader would say that it cannot load it
