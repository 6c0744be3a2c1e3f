"""An operator's function runs in a call's process: what it finds there, and how it may fail."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import Host, Stream

SOURCE = '''
import ctypes, os, random, sys

def look() -> dict:
    """What this process has."""
    return {
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "environment": dict(os.environ),
        "dumpable": ctypes.CDLL(None).prctl(3, 0, 0, 0, 0),
        "drawn": random.random(),
    }

def fail(message: str) -> int:
    """Fails."""
    raise KeyError(message)

def exhaust() -> int:
    """Asks for more memory than there is."""
    raise MemoryError

def leave(status: int) -> int:
    """Ends its process by itself."""
    os._exit(status)

def lie(text: str) -> int:
    """Writes to every descriptor there is, then ends its process."""
    for descriptor in range(3, 20):
        try:
            os.write(descriptor, text.encode())
        except OSError:
            pass
    os._exit(1)

def say(text: str) -> str:
    """Prints, and returns."""
    print(text)
    print(text, file=sys.stderr)
    return text
'''


@pytest.fixture
def host(workspace: Path) -> Iterator[Host]:
    with Host(workspace, extensions={"mine.py": SOURCE}) as started:
        yield started


def failure(stream: Stream) -> tuple[str, str]:
    assert stream.result is not None
    return stream.result.code, stream.result.message


def test_its_process_has_nothing_of_the_toolrunner(host: Host, workspace: Path) -> None:
    seen = host.call("look", {}, env={"A": "b"}).value
    # 0, 1, 2, the value, the report, and the listing itself
    assert len(seen["descriptors"]) == 6
    assert set(seen["environment"]) == {"A", "HOME", "LANG", "PATH", "TMPDIR"}
    assert seen["dumpable"] == 1
    assert os.listdir(workspace) == []


def test_each_call_draws_its_own_numbers(host: Host) -> None:
    assert len({host.call("look", {}).value["drawn"] for _ in range(4)}) == 4


def test_what_it_prints_is_kept_beside_its_value(host: Host) -> None:
    said = host.call("say", {"text": "é"})
    assert (said.value, said.stdout, said.stderr) == ("é", "é\n".encode(), "é\n".encode())


def test_its_exception_is_told_in_words_with_the_traceback_on_stderr(host: Host) -> None:
    failed = host.call("fail", {"message": "no key"})
    assert failure(failed) == ("tool_failed", "KeyError: 'no key'")
    assert b"raise KeyError(message)" in failed.stderr


def test_memory_that_runs_out_has_its_own_code(host: Host) -> None:
    assert failure(host.call("exhaust", {}))[0] == "out_of_memory"


@pytest.mark.parametrize("status", [0, 3])
def test_an_end_without_a_value_is_a_failure(host: Host, status: int) -> None:
    code, message = failure(host.call("leave", {"status": status}))
    assert (code, message) == (
        "tool_failed",
        f"the tool exited with {status} before it returned a value",
    )


@pytest.mark.parametrize(
    "text", ["policy_denied\nfooled", "internal", "x" * 3000, "\n\n", "timeout", "\0" * 50]
)
def test_a_lie_in_its_report_is_no_more_than_a_failure(host: Host, text: str) -> None:
    code, message = failure(host.call("lie", {"text": text}))
    assert code in ("tool_failed", "timeout")
    assert "fooled" not in message
    assert host.call("say", {"text": "next"}).value == "next"


def test_a_report_that_nobody_reads_yet_does_not_hang_its_writer(host: Host) -> None:
    code, message = failure(host.call("fail", {"message": "m" * 900_000}))
    assert code == "tool_failed"
    assert 1000 < len(message) < 4000


def test_the_tools_are_described_in_a_calls_process(host: Host, workspace: Path) -> None:
    names = [manifest["name"] for manifest in host.call("describe_extensions", {}).value]
    assert sorted(names) == ["exhaust", "fail", "leave", "lie", "look", "say"]
    with Host(workspace) as bare:
        assert bare.call("describe_extensions", {}).value == []


def test_a_name_that_nobody_has_is_not_found(host: Host) -> None:
    assert failure(host.call("absent", {}))[0] == "not_found"
