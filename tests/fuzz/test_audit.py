"""A log that somebody else has written to is told of, line by line, and never believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.engine import JSON, corpus, fuzz, inputs, mutated
from mas_sandbox.audit.canonical import canonical
from mas_sandbox.audit.files import begins_at, first_record
from mas_sandbox.audit.read import tail
from mas_sandbox.audit.records import GENESIS, digest_of, encode, parse, seal
from mas_sandbox.audit.verify import verify


@fuzz(120, data=mutated("audit", most=3))
def test_a_log_that_was_changed_is_never_sound(data: bytes, tmp_path: Path) -> None:
    place = tmp_path / "audit.jsonl"
    place.write_bytes(data)
    found = verify(place)
    assert found.records >= data.count(b"\n")
    sound = [log for log in corpus("audit") if _is_sound(log)]
    if found.ok:
        # What was cut from the end shows against a head that was noted; nothing else may.
        assert data == b"" or any(log.startswith(data) for log in sound)
    heads = {json.loads(log.splitlines()[-1])["digest"] for log in sound}
    for head in heads:
        if verify(place, head).ok:
            assert any(log == data and head.encode() in log for log in sound)


def _is_sound(log: bytes) -> bool:
    previous = GENESIS
    for line in log.splitlines(keepends=True):
        try:
            record = parse(line)
        except ValueError:
            return False
        if record["previous"] != previous:
            return False
        previous = record["digest"]
    return True


@fuzz(100, data=inputs("audit"), count=st.integers(0, 8))
def test_a_damaged_log_is_shown_line_by_line(data: bytes, count: int, tmp_path: Path) -> None:
    place = tmp_path / "audit.jsonl"
    place.write_bytes(data)
    shown = tail(place, count)
    assert len(shown) == min(count, data.count(b"\n"))
    assert all(isinstance(record, dict) for record in shown)
    assert first_record(place) is None or isinstance(first_record(place), dict)
    assert isinstance(begins_at(place), int)


FIELDS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=6), JSON, max_size=4
)


@fuzz(80, fields=FIELDS, number=st.integers(1, 2**53))
def test_a_record_comes_back_and_its_digest_holds_all_of_it(
    fields: dict[str, Any], number: int
) -> None:
    record = seal(fields, number, GENESIS)
    line = encode(record)
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert parse(line) == record
    for name in record.keys() - {"digest"}:
        assert digest_of(record | {name: [record[name]]}) != record["digest"]


@fuzz(80, value=JSON)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    written = canonical(value)
    assert canonical(json.loads(written)) == written
    assert canonical(json.loads(json.dumps(value))) == written
