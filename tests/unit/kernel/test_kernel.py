"""A real kernel in a process of its own, as the daemon starts it, without a sandbox."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mas_sandbox.server.live.code_marks import Budget, Marks, Said
from mas_sandbox.server.live.code_program import ARGV, program

MARK = "\x1e" + "ab" * 16


class Kernel:
    """Its pipes, each read until it says that a run has ended."""

    def __init__(self, kernel: str, place: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *ARGV[1:]],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=place,
            env=os.environ | environment,
            process_group=0,
        )
        self._marks = {name: Marks(MARK.encode(), Budget()) for name in ("stdout", "stderr")}
        self.execution = 0
        self._interrupt_at = ""
        self._send(program(MARK, kernel))
        self.said = self._hear("stdout", lambda message: message["type"] in ("ready", "failed"))[-1]

    def _send(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def begin(self, code: str) -> None:
        self.execution += 1
        self._send(json.dumps({"execution": self.execution, "code": code}).encode() + b"\n")

    def run(self, code: str) -> list[Any]:
        """What came on stdout: text, and messages; the last is the end."""
        self.begin(code)
        return self.end()

    def interrupted(self, code: str, at: str) -> list[Any]:
        """Interrupted as a terminal would, once it has said `at`: text, or a message's type."""
        self._interrupt_at = at
        return self.run(code)

    def end(self) -> list[Any]:
        told = self._hear("stdout", self._is_end)
        self.errors = b"".join(self._hear("stderr", self._is_end)[:-1]).decode()
        return told

    def value(self, code: str) -> dict[str, Any]:
        """The looks of the last result."""
        told = self.run(code)
        assert told[-1]["status"] == "ok", told
        data: dict[str, Any] = told[-2]["data"]
        return data

    def _is_end(self, message: dict[str, Any]) -> bool:
        return message["type"] == "end" and message["execution"] == self.execution

    def _hear(self, pipe: str, until: Callable[[dict[str, Any]], bool]) -> list[Any]:
        file, found = getattr(self.process, pipe), []
        while True:
            data = os.read(file.fileno(), 65536)
            assert data, (found, self.process.stderr and self.process.stderr.read())
            for item in self._marks[pipe].feed(data):
                if not isinstance(item, Said):
                    if found and isinstance(found[-1], bytes):
                        found[-1] += item
                    else:
                        found.append(item)
                    self._interrupt_if(found[-1].decode())
                    continue
                assert item.payload is not None
                message = json.loads(item.payload)
                self._interrupt_if(message["type"])
                if message == {"type": "begin", "execution": self.execution}:
                    continue
                found.append(message)
                if until(found[-1]):
                    return found

    def _interrupt_if(self, said: str) -> None:
        if said == self._interrupt_at:
            self._interrupt_at = ""
            os.killpg(self.process.pid, signal.SIGINT)

    def close(self) -> int:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()
            return self.process.wait(10)


@pytest.fixture(scope="module", params=["plain", "ipython"])
def kernel(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Kernel]:
    place = tmp_path_factory.mktemp(request.param)
    made = Kernel(request.param, place, HOME=str(place), TMPDIR=str(place))
    assert made.said == {"type": "ready", "kernel": request.param}
    yield made
    assert made.close() == 0
    assert not list(place.glob("ipython-*"))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    made = Kernel("plain", tmp_path_factory.mktemp("plain"))
    yield made
    made.close()


def test_variables_stay_and_the_value_of_the_last_expression_is_told(kernel: Kernel) -> None:
    assert kernel.run("a = 20") == [{"type": "end", "execution": kernel.execution, "status": "ok"}]
    assert kernel.value("a + 22") == {"text/plain": "42"}
    assert kernel.value("import sys; sys.modules['__main__'].a") == {"text/plain": "20"}
    assert kernel.run("None")[:-1] == []


def test_output_comes_before_what_is_told_after_it(kernel: Kernel) -> None:
    told = kernel.run("print('one', end='')\ndisplay(2)\nprint('three', end='')\n4")
    assert [each if isinstance(each, bytes) else each.get("data") for each in told] == [
        b"one",
        {"text/plain": "2"},
        b"three",
        {"text/plain": "4"},
        None,
    ]


def test_a_result_longer_than_a_pipe_takes_is_not_torn_by_what_others_write(
    kernel: Kernel,
) -> None:
    code = (
        "import subprocess\n"
        "flood = subprocess.Popen(['sh', '-c', 'while :; do echo flood; done'])\n"
        "display('x' * 500_000)\n"
        "flood.kill(); flood.wait()\n0"
    )
    told = kernel.run(code)
    (large,) = (each for each in told if isinstance(each, dict) and each.get("main") is False)
    assert large["data"]["text/plain"].count("x") == 500_000
    text = b"".join(each for each in told if isinstance(each, bytes))
    assert set(text.split(b"\n")[:-1]) == {b"flood"}


@pytest.mark.parametrize(
    ("code", "name", "value"),
    [
        ("1/0", "ZeroDivisionError", "division by zero"),
        ("import sys; sys.exit(3)", "SystemExit", "3"),
        ("input('?')", "EOFError", "no standard input"),
        ("import asyncio\nawait asyncio.wait_for(asyncio.sleep(9), 0.01)", "TimeoutError", ""),
    ],
)
def test_what_the_code_raises_is_told_and_it_goes_on(
    kernel: Kernel, code: str, name: str, value: str
) -> None:
    *_, told, end = kernel.run(code)
    assert (told["type"], told["name"], end["status"]) == ("exception", name, "exception")
    assert value in told["value"]
    assert kernel.value("1") == {"text/plain": "1"}


def test_a_traceback_has_the_code_and_none_of_the_kernels_frames(plain: Kernel) -> None:
    plain.run("class Broken:\n    def __repr__(self):\n        raise ValueError('mine')")
    told = plain.run("try:\n    1/0\nexcept ZeroDivisionError:\n    display(Broken())")[-2]
    lines = [line.strip() for line in told["traceback"].splitlines()]
    assert "raise ValueError('mine')" in lines
    assert "During handling of the above exception, another exception occurred:" in lines
    files = [line.split('"')[1] for line in lines if line.startswith("File")]
    assert set(files) == {"<run 1>", "<run 2>"}
    syntax = plain.run("x = (")[-2]
    assert (syntax["name"], '"<run 3>", line 1' in syntax["traceback"]) == ("SyntaxError", True)


def test_an_exception_whose_text_cannot_be_had_is_told_all_the_same(plain: Kernel) -> None:
    told = plain.run("class E(Exception):\n  def __str__(self): return 1\nraise E")[-2]
    assert (told["name"], "cannot be had" in told["value"]) == ("E", True)


def test_a_long_traceback_keeps_its_beginning_and_its_end(plain: Kernel) -> None:
    told = plain.run("raise ValueError('a' + 'x' * 1_000_000 + 'z')")[-2]
    assert len(told["value"]) < 20_000
    assert (told["value"][0], told["value"][-1]) == ("a", "z")


def test_interrupts_reach_code_and_programs_and_never_the_kernel(kernel: Kernel) -> None:
    for code in ("while True: pass", "import subprocess; subprocess.run(['sleep', '60'])"):
        *_, told, end = kernel.interrupted(f"print('on')\n{code}", "on\n")
        assert (told["name"], end["status"]) == ("KeyboardInterrupt", "interrupted")
    for _ in range(20):
        os.killpg(kernel.process.pid, signal.SIGINT)
    assert kernel.value("'still here'") == {"text/plain": "'still here'"}


def test_an_interrupt_is_heard_as_soon_as_a_run_says_that_it_begins(kernel: Kernel) -> None:
    for _ in range(10):
        # Python itself may miss a signal for as long as it sleeps, if it was about to.
        told = kernel.interrupted("import time\nwhile True: time.sleep(0.1)", "begin")
        assert told[-1]["status"] == "interrupted"
    assert kernel.run("a = 20")[-1]["status"] == "ok"


def test_an_interrupt_never_tears_a_message(plain: Kernel) -> None:
    code = "while True: display('x' * 20_000)"
    *results, told, end = plain.interrupted(code, "result")
    assert {len(each["data"]["text/plain"]) for each in results} == {20_002}
    assert (told["name"], end["status"]) == ("KeyboardInterrupt", "interrupted")


def test_a_task_that_is_interrupted_cleans_up(plain: Kernel) -> None:
    waits = "import asyncio\ntry:\n    print('waits')\n    while True: await asyncio.sleep(0.1)\n"
    told = plain.interrupted(f"{waits}finally:\n    print('cleaned')", "waits\n")
    assert (told[0], told[-1]["status"]) == (b"waits\ncleaned\n", "interrupted")
    assert plain.value("await asyncio.sleep(0, 7)") == {"text/plain": "7"}


def test_a_fork_that_comes_back_is_no_second_kernel(plain: Kernel) -> None:
    told = plain.run("import os\nchild = os.fork()\nif child: print(os.waitpid(child, 0)[1])")
    assert told == [b"0\n", {"type": "end", "execution": plain.execution, "status": "ok"}]


def test_closed_or_made_non_blocking_streams_break_nothing(plain: Kernel) -> None:
    told = plain.run("import os; os.set_blocking(1, False); display('x' * 300_000)")
    assert len(told[0]["data"]["text/plain"]) == 300_002
    plain.run("import sys; sys.stdout.close(); os.close(2)")
    assert plain.value("1") == {"text/plain": "1"}


def test_looks_that_fail_are_told_of_on_stderr_and_the_others_stay(plain: Kernel) -> None:
    own = Kernel("plain", Path("/"))
    code = (
        "class Odd:\n"
        "    def __repr__(self): return 'odd'\n"
        "    def _repr_html_(self): raise ValueError('no html')\n"
        "    def _repr_json_(self): return {'nan': float('nan')}\n"
        "    def _repr_svg_(self): return 5\n"
        "    def _repr_latex_(self): return '$\\\\alpha$', {'meta': 1}\n"
        "    def _repr_png_(self): return None\n"
        "Odd(), Odd\nOdd()"
    )
    assert own.value(code) == {"text/plain": "odd", "text/latex": "$\\alpha$"}
    assert "no html" in own.errors
    assert "application/json is not JSON" in own.errors
    assert list(own.value("Odd")) == ["text/plain"]
    own.close()


def test_what_is_too_large_leaves_its_smaller_looks() -> None:
    own = Kernel("plain", Path("/"))
    code = (
        "class Large:\n"
        "    def __repr__(self): return 'large'\n"
        "    def _repr_html_(self): return 'x' * 5_000_000\n"
        "Large()"
    )
    assert own.value(code) == {"text/plain": "large"}
    assert "too much to show" in own.value("'x' * 5_000_000")["text/plain"]
    own.close()


def test_ipython_has_magics_commands_and_its_own_display(tmp_path: Path) -> None:
    own = Kernel("auto", tmp_path)
    assert own.said["kernel"] == "ipython"
    assert own.run("!echo from a shell")[0] == b"from a shell\n"
    assert own.run(f"%cd -q {tmp_path}\n%pwd")[-2]["data"]["text/plain"] == repr(str(tmp_path))
    assert own.run("%%bash\necho $((6 * 7))")[0] == b"42\n"
    shown = own.run("from IPython.display import HTML, Image\ndisplay(HTML('<i>'))\n1/0")
    assert shown[0]["data"]["text/html"] == "<i>"
    assert "----> 3 1/0" in shown[1]["traceback"]
    assert own.value("Image(data=b'\\x89PNG', format='png')")["image/png"] == "iVBORw=="
    assert own.value("__IPYTHON__") == {"text/plain": "True"}
    own.close()


def pictured(told: Any) -> bytes:
    """Output as it is, and of a result the picture."""
    return told if isinstance(told, bytes) else b64decode(told["data"]["image/png"])


@pytest.mark.parametrize("name", ["plain", "ipython"])
def test_figures_are_shown_once_when_a_run_ends_or_show_says_so(name: str) -> None:
    doubles = Path(__file__).parents[2] / "doubles" / "pyplot_double"
    own = Kernel(name, doubles)  # found in the working directory
    shown = own.run(
        "import matplotlib.pyplot as plt\nplt.switch_backend()\nplt.figure('a'); plt.figure('b')\n"
        "print('before'); plt.show(); print('after')\nplt.figure('c')\n0"
    )
    assert [pictured(each) for each in shown[:4]] == [
        b"before\n",
        b"png of a",
        b"png of b",
        b"after\n",
    ]
    assert pictured(shown[-2]) == b"png of c"
    again = own.run("figure = plt.figure('d')\ndisplay(figure)")
    assert [pictured(each) for each in again[:-1]] == [b"png of d"]
    assert own.run("plt.get_fignums()")[-2]["data"] == {"text/plain": "[]"}
    own.close()


def test_a_kernel_that_is_not_there_says_so(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['IPython'] = None")
    own = Kernel("ipython", tmp_path, PYTHONPATH=str(tmp_path))
    assert own.said["type"] == "failed"
    assert own.close() == 0
    own = Kernel("auto", tmp_path, PYTHONPATH=str(tmp_path))
    assert own.said == {"type": "ready", "kernel": "plain"}
    own.close()


def test_what_lies_in_the_directory_is_not_the_standard_library(tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('mine')")
    (tmp_path / "mine.py").write_text("value = 5")
    own = Kernel("plain", tmp_path)
    assert own.value("import mine; mine.value") == {"text/plain": "5"}
    own.close()
