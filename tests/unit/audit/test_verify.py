"""Nothing can be changed, removed, moved or added without being seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mas_sandbox.audit.records import GENESIS, encode, seal
from mas_sandbox.audit.verify import verify

STAMP = {"time": "2026-01-02T03:04:05.678Z", "daemon": "d1"}


@pytest.fixture
def lines() -> list[bytes]:
    """A log of two calls."""
    fields = [
        {"kind": "start", "record_args": False},
        *(
            record
            for call in ("c1", "c2")
            for record in (
                {
                    "kind": "intent",
                    "call_id": call,
                    "principal": "agent",
                    "tool": "bash",
                    "args_hmac": "ab" * 32,
                    "decision": {"action": "allow", "rule": "operator/tools", "reason": "ok"},
                },
                {
                    "kind": "outcome",
                    "call_id": call,
                    "intended_by": "d1",
                    "status": "ok",
                    "code": "",
                    "exit_code": 0,
                    "enforced": ["timeout"],
                },
            )
        ),
        {"kind": "stop"},
    ]
    sealed, previous = [], GENESIS
    for number, record in enumerate(fields, start=1):
        sealed.append(seal(record | STAMP, number, previous))
        previous = sealed[-1]["digest"]
    return [encode(record) for record in sealed]


def problems(path: Path, lines: list[bytes], expected_head: str | None = None) -> list[int]:
    log = path / "log"
    log.write_bytes(b"".join(lines))
    return [problem.line for problem in verify(log, expected_head).problems]


def test_a_sound_log_has_no_problem(tmp_path: Path, lines: list[bytes]) -> None:
    assert problems(tmp_path, lines) == []
    assert problems(tmp_path, []) == []


def test_a_change_of_any_field_of_any_record_is_found(tmp_path: Path, lines: list[bytes]) -> None:
    for number, line in enumerate(lines):
        for name, value in json.loads(line).items():
            for other in ("x", 7, None):
                if value == other:
                    continue
                changed = encode(json.loads(line) | {name: other})
                assert problems(tmp_path, [*lines[:number], changed, *lines[number + 1 :]]), name


def test_a_change_of_any_byte_is_found(tmp_path: Path, lines: list[bytes]) -> None:
    content = b"".join(lines)
    for position in range(0, len(content), 11):
        flipped = bytearray(content)
        flipped[position] ^= 1
        assert problems(tmp_path, [bytes(flipped)]), position


def test_a_line_spelled_in_another_way_is_found(tmp_path: Path, lines: list[bytes]) -> None:
    record = json.loads(lines[1])
    spaced = json.dumps(record, sort_keys=True).encode() + b"\n"
    doubled = lines[1].replace(b"{", b'{"principal":"someone else",', 1)
    for line in (spaced, doubled):
        assert json.loads(line) == record
        assert problems(tmp_path, [lines[0], line, *lines[2:]])[0] == 2


def test_a_gap_in_the_numbers_is_found(tmp_path: Path, lines: list[bytes]) -> None:
    record = json.loads(lines[-1])
    renumbered = seal({"kind": "stop"} | STAMP, record["seq"] + 1, record["previous"])
    assert problems(tmp_path, [*lines[:-1], encode(renumbered)]) == [len(lines)]


def test_a_record_changed_and_resealed_breaks_the_chain_behind_it(
    tmp_path: Path, lines: list[bytes]
) -> None:
    record = json.loads(lines[1])
    forged = seal(record | {"principal": "someone else"}, record["seq"], record["previous"])
    assert problems(tmp_path, [lines[0], encode(forged), *lines[2:]]) == [3]


@pytest.mark.parametrize("number", range(5))
def test_a_removed_record_is_found(tmp_path: Path, lines: list[bytes], number: int) -> None:
    assert number + 1 in problems(tmp_path, lines[:number] + lines[number + 1 :])


def test_records_moved_or_inserted_are_found(tmp_path: Path, lines: list[bytes]) -> None:
    assert problems(tmp_path, [lines[0], lines[2], lines[1], *lines[3:]])
    assert problems(tmp_path, [*lines[:3], lines[2], *lines[3:]])
    assert problems(tmp_path, [*lines[:3], b"\n", *lines[3:]])
    assert problems(tmp_path, [*lines[:3], b"not json\n", *lines[3:]])


def test_a_cut_end_is_found_against_a_noted_head_only(tmp_path: Path, lines: list[bytes]) -> None:
    head = json.loads(lines[-1])["digest"]
    assert problems(tmp_path, lines[:-1]) == []
    assert problems(tmp_path, lines[:-1], head) == [0]
    assert problems(tmp_path, lines, head) == []
    older = json.loads(lines[2])["digest"]
    assert problems(tmp_path, lines, older) == []


def test_a_whole_chain_made_anew_is_found_against_a_noted_head(
    tmp_path: Path, lines: list[bytes]
) -> None:
    head = json.loads(lines[-1])["digest"]
    forged, previous = [], GENESIS
    for number, line in enumerate(lines, start=1):
        record = json.loads(line) | {"time": "2020-01-01T00:00:00.000Z"}
        forged.append(seal({k: v for k, v in record.items() if k != "digest"}, number, previous))
        previous = forged[-1]["digest"]
    rewritten = [encode(record) for record in forged]
    assert problems(tmp_path, rewritten) == []
    assert problems(tmp_path, rewritten, head) == [0]


def test_an_outcome_without_its_intent_is_found(tmp_path: Path) -> None:
    fields = {"kind": "outcome", "call_id": "c9", "intended_by": "d1", "code": ""} | STAMP
    assert problems(tmp_path, [encode(seal(fields, 1, GENESIS))]) == [1]


def test_counts_tell_calls_interrupted_and_unfinished(tmp_path: Path, lines: list[bytes]) -> None:
    (tmp_path / "log").write_bytes(b"".join(lines[:4]))
    found = verify(tmp_path / "log")
    assert (found.records, found.calls, found.unfinished, found.interrupted) == (4, 2, 1, 0)


@pytest.mark.parametrize("line", [b"[" * 100_000, b"9" * 5000, b'{"seq":NaN}', b"\xff\x00", b"1"])
def test_hostile_lines_are_problems_not_crashes(tmp_path: Path, line: bytes) -> None:
    assert problems(tmp_path, [line + b"\n"]) == [1]
