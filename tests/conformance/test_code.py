"""Code in a context of a real sandbox, on every runtime, through the daemon's front door."""

from __future__ import annotations

import json
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from mas_sandbox.api.code import CodeEvent, ContextInfo, ContextList, Execution
from place import BEARER, NDJSON, Place

PATIENCE_S = 30.0


class Context:
    """One context; an empty id is the sandbox's own."""

    def __init__(self, place: Place, **fields: Any) -> None:
        self.place = place
        info = place.post("code/contexts", {"kernel": "plain", **fields})
        self.id = ContextInfo.model_validate(info).context_id
        self.url = f"code/contexts/{self.id}"

    def body(self, code: str, **fields: Any) -> dict[str, Any]:
        return {"code": code, "context_id": self.id, **fields}

    def run(self, code: str, **fields: Any) -> Execution:
        return Execution.model_validate(self.place.post("code/run", self.body(code, **fields)))

    def show(self, code: str) -> Any:
        """The text of the value of the last expression."""
        ran = self.run(code)
        assert (ran.status, ran.exception) == ("ok", None), ran
        return ran.results[-1].data["text/plain"]

    def events(self, code: str, **fields: Any) -> Iterator[dict[str, Any]]:
        with self.place.client.stream(
            "POST", f"{self.place.url}/code/run", json=self.body(code, **fields), headers=NDJSON
        ) as response:
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                CodeEvent.model_validate_json(line)
                yield json.loads(line)

    def info(self) -> ContextInfo:
        return ContextInfo.model_validate(self.place.client.get(self.at()).json())

    def at(self) -> str:
        return f"{self.place.url}/{self.url}"

    def until(self, state: str) -> ContextInfo:
        deadline = time.monotonic() + PATIENCE_S
        while (info := self.info()).state != state:
            assert time.monotonic() < deadline, info
            time.sleep(0.02)
        return info


@pytest.fixture(scope="module")
def context(place: Place) -> Context:
    """One that the tests share, each with names of its own."""
    return Context(place)


def test_variables_modules_and_the_directory_stay(context: Context) -> None:
    assert context.run("import os, json\nx = 6\nos.makedirs('d', exist_ok=True)").results == ()
    assert context.show("y = x * 7\ny") == "42"
    context.run("os.chdir('d'); print('z = 9', file=open('module_of_mine.py', 'w'), flush=True)")
    assert context.show("os.path.basename(os.getcwd()), json.dumps(_)") == "('d', '42')"
    assert context.show("import module_of_mine; module_of_mine.z") == "9"
    assert context.show("__name__, input.__module__ != '__main__'") == "('__main__', True)"
    context.run("os.chdir('..')")


def test_output_and_results_come_in_order_with_those_of_programs(context: Context) -> None:
    code = (
        "import os, sys\n"
        "print('one'); os.system('echo two'); display(3); print('four', end='')\n"
        "os.system('echo error >&2'); os.write(1, b'five'); 6"
    )
    events = list(context.events(code))
    assert [event["type"] for event in (events[0], events[-1])] == ["start", "end"]
    assert events[-1] == {"type": "end", "status": "ok", "error": None}
    told = [event.get("text", event.get("data")) for event in events[1:-1]]
    assert [event["text"] for event in events if event["type"] == "stderr"] == ["error\n"]
    told.remove("error\n")
    three = told.index({"text/plain": "3"})
    assert "".join(told[:three]) == "one\ntwo\n"
    # What ends no line waits, but for what is told after it.
    assert "".join(told[three + 1 : -1]) == "fivefour"
    assert told[-1] == {"text/plain": "6"}


def test_a_line_is_told_as_soon_as_it_is_printed(context: Context) -> None:
    events = context.events("print('now')\nimport time\ntime.sleep(60)")
    assert next(events)["type"] == "start"
    assert next(events) == {"type": "stdout", "text": "now\n"}
    context.place.post(f"{context.url}/interrupt")
    assert list(events)[-1]["status"] == "interrupted"


def test_a_value_is_shown_as_richly_as_it_says(context: Context) -> None:
    code = (
        "class Rich:\n"
        "    def __repr__(self): return 'rich'\n"
        "    def _repr_html_(self): return '<b>rich</b>'\n"
        "    def _repr_png_(self): return b'\\x89PNG'\n"
        "    def _repr_mimebundle_(self, include=None, exclude=None):\n"
        "        return {'application/json': {'a': [1]}}, {}\n"
        "Rich()"
    )
    (result,) = context.run(code).results
    assert result.main
    assert b64decode(result.data.pop("image/png")) == b"\x89PNG"
    assert result.data == {
        "text/plain": "rich",
        "text/html": "<b>rich</b>",
        "application/json": {"a": [1]},
    }


def test_an_exception_is_told_with_the_frames_of_the_code_alone(context: Context) -> None:
    ran = context.run("def broken():\n    return 1 / 0\n\nbroken()")
    assert ran.status == "exception"
    assert ran.exception is not None
    assert (ran.exception.name, ran.exception.value) == ("ZeroDivisionError", "division by zero")
    lines = ran.exception.traceback.splitlines()
    assert [line.strip() for line in lines if "File" in line] == [
        f'File "<run {ran.execution}>", line 4, in <module>',
        f'File "<run {ran.execution}>", line 2, in broken',
    ]
    assert "    return 1 / 0" in lines
    assert context.show("'it goes on'") == "'it goes on'"


def test_await_may_stand_anywhere(context: Context) -> None:
    code = "import asyncio\nasync def one(): return 1\nawait asyncio.sleep(0)\nawait one()"
    assert context.show(code) == "1"
    ran = context.run("await asyncio.sleep(60)", timeout_ms=200)
    assert (ran.status, ran.error and ran.error.code) == ("interrupted", "timeout")
    assert context.show("await one()") == "1"


def test_there_is_nobody_to_ask(context: Context) -> None:
    ran = context.run("input('who?')")
    assert ran.exception is not None
    assert (ran.exception.name, "no standard input" in ran.exception.value) == ("EOFError", True)
    assert context.show("import sys; sys.stdin.read()") == "''"


@pytest.mark.parametrize(
    "code",
    ["while True: pass", "import subprocess; subprocess.run(['sleep', '60'])"],
    ids=["a loop", "a program"],
)
def test_an_interrupt_ends_the_run_and_not_the_context(context: Context, code: str) -> None:
    context.run("kept = 'kept'")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(context.run, f"print('on')\n{code}")
        context.until("busy")
        time.sleep(0.1)
        context.place.post(f"{context.url}/interrupt")
        ran = running.result(PATIENCE_S)
    assert ran.status == "interrupted"
    assert (ran.exception and ran.exception.name) == "KeyboardInterrupt"
    assert (ran.error and ran.error.code) == "interrupted"
    assert context.show("kept") == "'kept'"


def test_an_interrupt_ends_a_wait_that_did_not_hear_it(place: Place) -> None:
    """As when it comes just before the wait begins."""
    own = Context(place)
    events = own.events(
        "import signal, threading, time\n"
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # which hears it\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "print('waits'); time.sleep(60)",
        timeout_ms=10_000,  # after which the kernel would be ended
    )
    assert [next(events)["type"], next(events)["type"]] == ["start", "stdout"]
    place.post(f"{own.url}/interrupt")
    assert list(events)[-1]["status"] == "interrupted"
    place.client.delete(own.at())


def test_a_deadline_interrupts(context: Context) -> None:
    ran = context.run("import time; time.sleep(60)", timeout_ms=200)
    assert (ran.status, ran.error and ran.error.code) == ("interrupted", "timeout")


def test_a_context_dies_and_begins_again_when_it_is_told_to(place: Place) -> None:
    own = Context(place, cwd="/workspace", env={"NAME": "value"})
    own.run("kept = 1")
    with ThreadPoolExecutor() as pool:
        dying = pool.submit(own.run, "import time, os; time.sleep(0.5); os._exit(7)")
        own.until("busy")
        waiting = pool.submit(own.run, "1")
        assert (dying.result().status, waiting.result().status) == ("lost", "lost")
    error = dying.result().error
    assert error is not None
    assert (error.code, "exit code 7" in error.message) == ("tool_failed", True)
    assert own.until("dead").error == error
    refused = place.client.post(f"{place.url}/code/run", json=own.body("1"))
    assert (refused.status_code, "restart" in refused.text) == (409, True)
    info = ContextInfo.model_validate(place.post(f"{own.url}/restart"))
    assert (info.state, info.restarts, info.error) == ("idle", 1, None)
    assert own.show("import os; os.environ['NAME'], 'kept' in globals()") == "('value', False)"
    place.client.delete(own.at())


def test_contexts_run_side_by_side_and_one_takes_turns(place: Place, context: Context) -> None:
    other = Context(place)
    meet = "import os, time\nopen('{0}', 'w').close()\nwhile not os.path.exists('{1}'): time.sleep(.01)"
    with ThreadPoolExecutor() as pool:
        met = [
            pool.submit(context.run, meet.format("a", "b"), timeout_ms=20_000),
            pool.submit(other.run, meet.format("b", "a"), timeout_ms=20_000),
        ]
        assert [each.result().status for each in met] == ["ok", "ok"]
        other.run("seen = []")
        add = "seen.append('begins'); time.sleep(0.02); seen.append('ends')"
        for each in [pool.submit(other.run, add) for _ in range(4)]:
            assert each.result().status == "ok"
    assert other.show("seen == ['begins', 'ends'] * 4") == "True"
    place.client.delete(other.at())


def test_closing_ends_all_that_it_started(place: Place) -> None:
    own = Context(place)
    beat = "while :; do date +%s%N > beating; mv beating beat; sleep 0.05; done"
    own.run(f"import subprocess; child = subprocess.Popen(['sh', '-c', '{beat}'])")
    place.run("until cp beat first; do :; done; while cmp -s beat first; do :; done")
    closed = ContextInfo.model_validate_json(place.client.delete(own.at()).content)
    assert (closed.state, closed.error and closed.error.code) == ("dead", "interrupted")
    assert place.client.get(own.at()).status_code == 404
    deadline = time.monotonic() + PATIENCE_S
    while place.run("cat beat; sleep 0.3")[0] != place.run("cat beat")[0]:
        assert time.monotonic() < deadline


def test_code_without_a_context_has_one_of_the_sandboxs_own(place: Place) -> None:
    first = Execution.model_validate(place.post("code/run", {"code": "mine = 5"}))
    again = Execution.model_validate(place.post("code/run", {"code": "mine"}))
    assert again.results[0].data["text/plain"] == "5"
    assert (again.context_id, again.execution) == (first.context_id, 2)
    listed = ContextList.model_validate(place.client.get(f"{place.url}/code/contexts").json())
    assert first.context_id in [each.context_id for each in listed.contexts]
    place.client.delete(f"{place.url}/code/contexts/{first.context_id}")


def test_much_output_comes_whole_and_a_large_result_too(context: Context) -> None:
    size = 0
    for event in context.events("for _ in range(100): print('x' * 99_999)\n'y' * 2_000_000"):
        if event["type"] == "stdout":
            size += len(event["text"])
        elif event["type"] == "result":
            assert len(event["data"]["text/plain"]) == 2_000_002
    assert size == 100 * 100_000


@pytest.mark.parametrize(("asked", "status"), [("cancel", "idle"), ("detach", "busy")])
def test_a_client_that_leaves_interrupts_it_or_not_as_it_asked(
    context: Context, asked: str, status: str
) -> None:
    events = context.events("print(1)\nimport time\ntime.sleep(60)", on_disconnect=asked)
    assert [next(events)["type"], next(events)["type"]] == ["start", "stdout"]
    events.close()  # type: ignore[attr-defined] # it is a generator
    if status == "busy":
        time.sleep(0.3)
        assert context.info().state == "busy"
        context.place.post(f"{context.url}/interrupt")
    context.until("idle")


def test_a_websocket_tells_the_same_and_interrupts(context: Context) -> None:
    place = context.place
    url = f"ws://{place.client.base_url.netloc.decode()}{place.url}/code/run/ws"
    events = []
    with connect(url, additional_headers=BEARER, compression=None) as socket:
        socket.send(json.dumps(context.body("print('on')\nwhile True: pass")))
        try:
            while True:
                events.append(json.loads(socket.recv(PATIENCE_S)))
                if events[-1]["type"] == "stdout":
                    socket.send(json.dumps({"type": "interrupt"}))
        except ConnectionClosed:
            pass
    for event in events:
        CodeEvent.model_validate(event)
    kinds = [event["type"] for event in events]
    assert kinds == ["start", "stdout", "exception", "end"]
    assert events[-1]["error"]["code"] == "interrupted"


def test_ipython_is_taken_where_it_is_there(place: Place) -> None:
    if place.info()["runtime"] != "local":
        refused = place.client.post(f"{place.url}/code/contexts", json={"kernel": "ipython"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (404, "not_found")
        return
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    assert (Path(packages) / "IPython").exists()
    home = ".local/lib/python$(python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])')"
    made = place.run(f'mkdir -p "{home}/site-packages"; ln -s {packages}/* "{home}/site-packages"')
    assert made[2]["exit_code"] == 0, made
    own = Context(place, kernel="auto")
    try:
        assert own.info().kernel == "ipython"
        assert own.run("%cd /\n!pwd").stdout.splitlines()[-1] == "/"
        ran = own.run("from IPython.display import Markdown\ndisplay(Markdown('*m*'))\n6 * 7")
        assert ran.results[0].data["text/markdown"] == "*m*"
        assert ran.results[1].data["text/plain"] == "42"
        ran = own.run("1/0")
        assert ran.exception is not None
        assert (ran.status, ran.exception.name) == ("exception", "ZeroDivisionError")
        ran = own.run("import time; time.sleep(60)", timeout_ms=300)
        assert (ran.status, ran.error and ran.error.code) == ("interrupted", "timeout")
    finally:
        place.client.delete(own.at())
        place.run("rm -r .local")
