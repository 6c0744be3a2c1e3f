"""JSON lines in, JSON lines out, whatever comes in."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from doubles.brokers import Bench, bench
from doubles.memory_runtime import MemoryRuntime, returned
from mas_sandbox.runtimes.outcome import CallOutcome
from mas_sandbox.server.calls import Caller
from mas_sandbox.server.stdio import MAX_LINE, Answers, LineSplitter, StdioDoor
from mas_sandbox.wire.messages import Call


def call(name: Any, expression: str = "1", **more: Any) -> bytes:
    fields = {"id": name, "tool": "calculator", "args": {"expression": expression}, **more}
    return json.dumps(fields).encode() + b"\n"


def answers(
    directory: Path,
    given: bytes,
    runtime: MemoryRuntime | None = None,
    use: Callable[[Bench], Awaitable[None]] | None = None,
) -> list[dict[str, Any]]:
    """What a door answers to `given`, read from a pipe that is then closed."""

    async def main() -> bytes:
        in_reader, in_writer = os.pipe()
        out_reader, out_writer = os.pipe()
        async with bench(directory, runtime) as made:
            door = StdioDoor(made.broker, Caller("local"), Answers(out_writer))
            reading = asyncio.create_task(asyncio.to_thread(_all, out_reader))
            writing = asyncio.create_task(asyncio.to_thread(_write, in_writer, given))
            serving = asyncio.create_task(door.serve(in_reader))
            if use is not None:
                await use(made)
            await asyncio.gather(serving, writing)
            os.close(in_reader)
            os.close(out_writer)
            return await reading

    return [json.loads(line) for line in asyncio.run(main()).splitlines()]


def _all(descriptor: int) -> bytes:
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _write(descriptor: int, data: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)


def test_an_answer_has_every_field_of_the_protocol(tmp_path: Path) -> None:
    (answer,) = answers(tmp_path, call(7))
    assert answer["id"] == 7
    assert answer["result"] == {"expression": "1"}
    assert answer["error"] is None
    assert answer["exit_code"] == 0
    assert isinstance(answer["duration"], float)
    assert answer.keys() == {
        *("id", "status", "result", "error", "exit_code", "stderr", "truncated"),
        *("usage", "isolation", "enforced", "duration", "replayed"),
    }


def test_calls_run_at_once_and_answers_come_as_they_are_ready(tmp_path: Path) -> None:
    second_done = asyncio.Event()

    async def tool(call: Call) -> CallOutcome:
        if call.args["expression"] == "slow":
            await second_done.wait()
        else:
            second_done.set()
        return returned(call.args["expression"])

    got = answers(tmp_path, call("a", "slow") + call("b", "quick"), MemoryRuntime(tool))
    assert [(answer["id"], answer["result"]) for answer in got] == [("b", "quick"), ("a", "slow")]


def test_many_lines_each_get_their_own_answer(tmp_path: Path) -> None:
    got = answers(tmp_path, b"".join(call(n, str(n)) for n in range(500)))
    assert {answer["id"]: answer["result"]["expression"] for answer in got if answer["result"]}
    for answer in got:
        if answer["error"] is None:
            assert answer["result"]["expression"] == str(answer["id"])
        else:
            assert answer["error"]["code"] == "overloaded"
    assert sorted(answer["id"] for answer in got) == list(range(500))


def test_a_large_answer_is_one_line(tmp_path: Path) -> None:
    async def tool(call: Call) -> CallOutcome:
        return returned("x" * 900_000)

    (answer,) = answers(tmp_path, call(1), MemoryRuntime(tool))
    assert len(answer["result"]) == 900_000


@pytest.mark.parametrize(
    ("line", "name", "words"),
    [
        (b"nonsense\n", None, "refused"),
        (b"[1]\n", None, "not a JSON object"),
        (b'{"id":1,"id":2,"tool":"bash"}\n', None, "duplicate key"),
        (b'{"id":1,"tool":"calculator","args":{"expression":NaN}}\n', None, "NaN"),
        (b'{"id":1,"args":' + b"[" * 100_000 + b"\n", None, "nested"),
        (b'{"id":3,"tool":"bash","arg":{}}\n', 3, "unknown field 'arg'"),
        (b'{"id":3}\n', 3, "tool is a name"),
        (b'{"id":3,"tool":"bash","args":[]}\n', 3, "args is an object"),
        (b'{"id":3,"tool":"bash","sandbox_id":4}\n', 3, "sandbox_id is a string"),
        (b'{"id":3,"tool":"bash","policy":{"mem":1}}\n', 3, "policy: mem: unknown field"),
        (b'{"id":3,"tool":"bash","policy":[]}\n', 3, "policy"),
        (b"\xff\n", None, "UTF-8"),
        (b'{"id":"a\\ud800"}\n', None, "surrogate"),
    ],
)
def test_a_bad_line_is_answered_and_the_next_one_served(
    tmp_path: Path, line: bytes, name: Any, words: str
) -> None:
    got = answers(tmp_path, line + call("next"))
    bad = next(answer for answer in got if answer["id"] != "next")
    assert (bad["id"], bad["error"]["code"]) == (name, "invalid_request")
    assert words in bad["error"]["message"]
    assert next(answer for answer in got if answer["id"] == "next")["error"] is None


def test_a_line_that_is_too_long_is_skipped_to_its_end(tmp_path: Path) -> None:
    got = answers(tmp_path, b"x" * (3 * MAX_LINE) + b"\n" + call("next"))
    assert {answer["id"] for answer in got} == {None, "next"}
    assert len(got) == 2


def test_empty_lines_are_nothing_and_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    got = answers(tmp_path, b"\n \n" + call(1).rstrip())
    assert [answer["id"] for answer in got] == [1]


def test_newlines_and_escapes_in_an_answer_stay_in_its_line(tmp_path: Path) -> None:
    text = 'a\nb\r\u2028\x00\x1b[31m{"id":9}'
    (answer,) = answers(tmp_path, call(1, text))
    assert answer["result"]["expression"] == text


def test_a_trace_is_recorded_and_a_malformed_one_refused(tmp_path: Path) -> None:
    trace = {"run_id": "run-17", "step_id": "3"}
    good, bad = answers(tmp_path, call(1, trace=trace) + call(2, trace={"run": "x"}))
    if good["id"] != 1:
        good, bad = bad, good
    assert good["status"] == "ok"
    assert bad["error"]["code"] == "invalid_request"
    log = next(tmp_path.glob("**/audit.jsonl")).read_text()
    assert '"run_id":"run-17"' in log


def test_a_key_is_done_once_whatever_its_id_and_goes_with_one_request(tmp_path: Path) -> None:
    lines = [call(n, idempotency_key="k", trace={"run_id": "r"}) for n in range(3)]
    lines += [call(3, "2", idempotency_key="k"), call(4, idempotency_key="k")]
    found = sorted(answers(tmp_path, b"".join(lines)), key=lambda each: int(each["id"]))
    assert [each["result"] for each in found[:3]] == [{"expression": "1"}] * 3
    assert sorted(each["replayed"] for each in found[:3]) == [False, True, True]
    assert {each["error"]["code"] for each in found[3:]} == {"idempotency_conflict"}
    intents = [
        record
        for record in map(json.loads, (tmp_path / "audit.jsonl").read_text().splitlines())
        if record["kind"] == "intent"
    ]
    assert [each["trace"]["idempotency_key"] for each in intents] == ["k"]


@pytest.mark.parametrize("key", [7, "", "x" * 256, "é", "a\nb"])
def test_what_is_no_key_is_refused(tmp_path: Path, key: Any) -> None:
    (answer,) = answers(tmp_path, call(1, idempotency_key=key))
    assert answer["error"]["code"] == "invalid_request"


def test_without_a_key_nothing_is_kept(tmp_path: Path) -> None:
    answers(tmp_path, call(1))
    assert not list(tmp_path.glob("answers.db*"))


def test_calls_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "calls"
    path.write_bytes(call(1) + call(2))

    async def main() -> bytes:
        out_reader, out_writer = os.pipe()
        source = os.open(path, os.O_RDONLY)
        async with bench(tmp_path) as made:
            await StdioDoor(made.broker, Caller("local"), Answers(out_writer)).serve(source)
        os.close(source)
        os.close(out_writer)
        return _all(out_reader)

    assert len(asyncio.run(main()).splitlines()) == 2


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_lines_are_the_same_however_the_bytes_arrive(size: int) -> None:
    data = b"a\n\nbcd\n" + b"x" * (MAX_LINE + 1) + b"\ne" if size == 1000 else b"a\n\nbcd\ne"
    splitter = LineSplitter()
    lines: list[bytes | None] = []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    assert lines == [b"a", b"", b"bcd"] + ([None] if size == 1000 else [])
    assert splitter.rest() == b"e"
