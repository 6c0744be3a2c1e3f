"""What a monitor and its guest write is read as it comes, and kept within bounds."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mas_sandbox.runtimes.microvm import output
from mas_sandbox.runtimes.microvm.output import TAIL_BYTES, LogFile, Output

pytestmark = pytest.mark.anyio


async def test_a_flood_is_drained_and_only_its_end_is_kept() -> None:
    reader, writer = os.pipe()
    kept = Output(reader)
    for number in range(200):
        await asyncio.to_thread(os.write, writer, b"%05d " % number * 5000)
    os.write(writer, b"the end\r\n")
    os.close(writer)
    await asyncio.sleep(0.05)
    assert kept.tail().endswith("the end")
    assert len(kept.tail()) <= TAIL_BYTES
    kept.close()


async def test_what_was_said_before_the_end_can_be_read_after_it() -> None:
    reader, writer = os.pipe()
    kept = Output(reader)
    os.write(writer, b"Kernel panic\n")
    kept.close()
    kept.close()
    assert kept.tail() == "Kernel panic"
    os.close(writer)


async def test_marks_that_would_steer_a_terminal_are_not_passed_on() -> None:
    reader, writer = os.pipe()
    kept = Output(reader)
    os.write(writer, b"a\x1b[2Jb\x00c\xff\nd")
    assert kept.tail() == "a?[2Jb?c\ufffd\nd"
    kept.close()
    os.close(writer)


async def test_a_log_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LOG_BYTES", 1000)
    path = tmp_path / "log"
    file = LogFile(path)
    for number in range(100):
        file.write(b"%099d\n" % number)
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1"]
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) <= 2000
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_log_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        LogFile(tmp_path / "log")
