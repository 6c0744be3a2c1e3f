"""JSON from a peer that means harm: refused in words, in time that grows with its length."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.wire import strict_json

DEPTH = strict_json.MAX_DEPTH


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        -1,
        1.5,
        10**400,
        "",
        'é\u2028"\\\n\0 😀',
        [],
        {},
        {"a": [1, {"b": None}]},
        [[]] * 9,
    ],
)
def test_values_come_back_as_they_were(value: Any) -> None:
    encoded = strict_json.dumps(value)
    assert encoded.isascii()
    assert b"\n" not in encoded
    assert strict_json.loads(encoded) == value


@pytest.mark.parametrize("text", ["\ud83d\ude00", '"\\ud83d\\ude00"', ' \t\r\n{"a" : 1 }\n'])
def test_escapes_and_white_space(text: str) -> None:
    if text.startswith("\ud83d"):
        with pytest.raises(ValueError, match="UTF-8"):
            strict_json.loads(f'"{text}"')
    else:
        assert strict_json.loads(text) in ("😀", {"a": 1})


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", ""),
        (b" ", ""),
        (b"{", ""),
        (b"[1,]", ""),
        (b"1 2", "Extra data"),
        (b"[] x", "Extra data"),
        (b"\xef\xbb\xbf{}", ""),
        (b"'a'", ""),
        (b'"a\nb"', "control character"),
        (b'"\\x"', "escape"),
        (b"01", ""),
        (b'{"a":1,"a":1}', "duplicate key 'a'"),
        (b'[{"b":{"a":1,"c":2,"a":3}}]', "duplicate key 'a'"),
        (b'{"\\u0061":1,"a":2}', "duplicate key 'a'"),
        (b"NaN", "NaN"),
        (b"[-Infinity]", "-Infinity"),
        (b"Infinity", "Infinity"),
        (b"1e999", "out of range"),
        (b"-1e999", "out of range"),
        (b"9" * 5000, "4300 digits"),
        (b'"\\ud800"', "lone surrogate"),
        (b'{"\\udfff":1}', "lone surrogate"),
        (b'{"a":[["\\ude00\\ud83d"]]}', "lone surrogate"),
        (b'"\xff"', "not UTF-8 at byte 1"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b"[" * (DEPTH + 1) + b"]" * (DEPTH + 1), "nested deeper than 64"),
        (b"[" * 500_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b'"' + b"x" * strict_json.MAX_BYTES, "bytes of JSON"),
    ],
)
def test_what_is_refused(document: bytes, reason: str) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError) as refused:
        strict_json.loads(document)
    assert reason in str(refused.value)
    assert time.process_time() - begun < 0.5


def test_the_deepest_allowed_nesting_passes_and_brackets_in_strings_do_not_count() -> None:
    assert strict_json.loads(b"[" * DEPTH + b"]" * DEPTH)
    text = '[[{"' * 100 + '\\"'
    assert strict_json.loads(strict_json.dumps([text] * 3)) == [text] * 3
    flat: list[Any] = [[] for _ in range(1000)]
    assert strict_json.loads(strict_json.dumps(flat)) == flat


@pytest.mark.parametrize(
    "document",
    [
        b'"' * 900_000,
        b'"\\' * 450_000,
        b"[" * 65 + b'"\\"' * 300_000,
        b'{"' * 400_000,
        b"[" + b'"a",' * 200_000,
        b"{" + b",".join(b'"%d":0' % n for n in range(90_000)),
    ],
)
def test_hostile_documents_take_linear_time(document: bytes) -> None:
    begun = time.process_time()
    with pytest.raises(ValueError):
        strict_json.loads(document)
    assert time.process_time() - begun < 1.0


def test_the_byte_bound_is_the_callers() -> None:
    assert strict_json.loads(b"[1]", max_bytes=3) == [1]
    with pytest.raises(ValueError, match="4 bytes of JSON; 3 at most"):
        strict_json.loads(b"[10]", max_bytes=3)


def test_input_may_be_any_kind_of_text_or_bytes() -> None:
    for document in ('{"a":1}', b'{"a":1}', bytearray(b'{"a":1}'), memoryview(b'{"a":1}')):
        assert strict_json.loads(document) == {"a": 1}


@pytest.mark.parametrize("value", [math.nan, math.inf, {1, 2}, b"bytes", object(), {(1, 2): 3}])
def test_what_has_no_json_is_not_written(value: Any) -> None:
    with pytest.raises(ValueError):
        strict_json.dumps(value)


def test_a_value_that_holds_itself_is_not_written() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError):
        strict_json.dumps(value)


def test_a_broken_document_is_a_value_error_where_json_was_never_imported() -> None:
    """The scanner finds its own exception in json.decoder, if somebody imported that."""
    code = """
import sys
from mas_sandbox.wire import strict_json
assert "json" not in sys.modules
for document in ("{", '"a', '{"a":1,', '["\\\\x"]'):
    try:
        strict_json.loads(document)
    except ValueError:
        continue
    raise SystemExit(f"{document} was taken")
"""
    package = Path(strict_json.__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(package)!r})\n{code}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
