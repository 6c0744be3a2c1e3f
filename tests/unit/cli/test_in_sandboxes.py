"""The commands that live in sandboxes, against a real daemon."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mas_sandbox.cli.main import main
from mas_sandbox.sdk import Sandbox
from running_daemon import TOKEN, RunningDaemon, daemon

PROGRAM = [sys.executable, "-m", "mas_sandbox.cli.main"]
Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDaemon]:
    with daemon(tmp_path_factory.mktemp("daemon")) as running:
        yield running


@pytest.fixture(scope="module")
def place(running: RunningDaemon) -> Iterator[Sandbox]:
    with Sandbox.create(running.url, TOKEN) as made:
        yield made


@pytest.fixture(autouse=True)
def _environment(running: RunningDaemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAS_SANDBOX_URL", running.url)
    monkeypatch.setenv("MAS_SANDBOX_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "status", "out", "error"),
    [
        (["--", "sh", "-c", "echo out; echo err >&2; exit 7"], 7, "out\n", "err\n"),
        (["--", "sh", "-c", "kill -9 $$"], 137, "", ""),
        (["--", "nonesuch"], 127, "", "no program 'nonesuch'"),
        (["--", "/etc"], 126, "", "cannot be run"),
        (["--", "cat"], 0, "", ""),
        (["--", "sh", "-c", "sleep 100 & echo here"], 0, "here\n", ""),
        ([], 255, "", "say what to run"),
        # Behind the sandbox, options are the program's, with -- or without.
        (["sh", "-c", "echo $0 $*", "-t", "--", "-i"], 0, "-t -- -i\n", ""),
    ],
)
def test_exec_passes_on_output_and_status(
    place: Sandbox, words: list[str], status: int, out: str, error: str, capfd: Capture
) -> None:
    assert main(["exec", place.id, *words]) == status
    shown = capfd.readouterr()
    assert shown.out == out
    assert error in shown.err
    assert error or not shown.err


def test_exec_gives_variables_a_directory_and_a_deadline(place: Sandbox, capfd: Capture) -> None:
    place.files.mkdir("below")
    script = "echo $A $(pwd); sleep 100"
    words = ["-e", "A=b c", "-w", "below", "--timeout", "1", place.id, "sh", "-c", script]
    assert main(["exec", *words]) == 137
    shown = capfd.readouterr()
    assert shown.out == "b c /workspace/below\n"
    assert shown.err.startswith("mas-sandbox: timeout: ")


def test_exec_reads_stdin_to_its_end_and_loses_nothing(place: Sandbox) -> None:
    content = os.urandom(3_000_000)
    words = ["exec", "-i", place.id, "--", "sh", "-c", "cat; echo end"]
    done = subprocess.run([*PROGRAM, *words], input=content, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == content + b"end\n"


def test_exec_ends_the_program_of_a_reader_that_leaves(place: Sandbox) -> None:
    words = ["exec", "--tag", "endless", place.id, "--", "yes"]
    calling = subprocess.Popen([*PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert calling.stdout is not None
    assert calling.stdout.read(4) == b"y\ny\n"
    calling.stdout.close()
    assert calling.wait(20) == 141
    assert place.processes.get("endless").wait(10).state == "exited"


def test_exec_asks_for_a_terminal_where_there_is_none(place: Sandbox) -> None:
    words = ["exec", "-it", place.id, "--", "cat"]
    done = subprocess.run([*PROGRAM, *words], stdin=subprocess.DEVNULL, capture_output=True)
    assert done.returncode == 255
    assert b"stdin is no terminal: run this in one" in done.stderr


def test_a_detached_program_is_listed_shown_and_ended(place: Sandbox, capfd: Capture) -> None:
    script = "echo one; echo two >&2; echo up > began; exec sleep 1000"
    assert main(["exec", "-d", "--tag", "bg", place.id, "sh", "-c", script]) == 0
    pid = int(capfd.readouterr().out)
    place.run("until [ -e began ]; do sleep 0.01; done")
    assert main(["logs", place.id, "bg"]) == 0
    assert capfd.readouterr() == ("one\n", "two\n")
    assert main(["ps", place.id]) == 0
    rows = [line.split()[:3] for line in capfd.readouterr().out.splitlines()]
    assert [str(pid), "bg", "running"] in rows
    assert main(["kill", place.id, "bg", "-s", "term"]) == 0
    assert place.processes.get(pid).wait(10).signal == signal.SIGTERM
    assert main(["logs", "-f", place.id, str(pid)]) == 0
    assert capfd.readouterr() == ("one\n", "two\n")
    assert main(["ps", place.id, "--json"]) == 0
    listed = {each["pid"]: each for each in json.loads(capfd.readouterr().out)}
    assert listed[pid]["signal"] == signal.SIGTERM


def test_the_logs_of_a_silent_process_do_not_wait(place: Sandbox, capfd: Capture) -> None:
    process = place.processes.start(["sleep", "1000"])
    assert main(["logs", place.id, str(process.pid)]) == 0
    assert main(["kill", place.id, str(process.pid)]) == 0
    assert process.refresh().signal == signal.SIGKILL
    assert capfd.readouterr() == ("", "")


def test_a_sandbox_is_made_listed_changed_and_ended(capfd: Capture) -> None:
    options = ["-m", "run=r 1", "-e", "A=b", "--timeout", "2h", "--policy", '{"mem_mb": 200}']
    assert main(["create", *options]) == 0
    sandbox = capfd.readouterr().out.strip()
    assert main(["ls", "-m", "run=r 1"]) == 0
    row = capfd.readouterr().out.splitlines()[1]
    assert row.split() == [sandbox, "running", "jail", "0s", "10m", "idle", "run=r", "1"]
    assert main(["exec", sandbox, "--", "sh", "-c", "echo $A"]) == 0
    assert main(["pause", sandbox]) == 0
    assert main(["ls", "-q", "--state", "paused"]) == 0
    assert capfd.readouterr().out == f"b\n{sandbox}\n{sandbox}\n"
    assert main(["resume", sandbox]) == 0
    assert main(["extend", sandbox, "60"]) == 0
    capfd.readouterr()
    assert main(["ls", "-m", "run=r 1", "--json"]) == 0
    info = json.loads(capfd.readouterr().out)[0]
    assert (info["state"], info["timeout_s"]) == ("running", 60)
    assert main(["rm", "nonesuch", sandbox]) == 1
    assert capfd.readouterr().out == f"{sandbox}\n"
    assert main(["ls", "-m", "run=r 1", "-a", "-q"]) == 0
    assert capfd.readouterr().out == f"{sandbox}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rm"], "name the sandboxes"),
        (["rm", "--all"], "nobody to ask; give --yes"),
        (["pause"], "name a sandbox"),
        (["create", "--env", "novalue"], "is not NAME=VALUE"),
        (["create", "--timeout", "2 weeks"], "15m"),
        (["create", "--policy", "@nonesuch"], "cannot be read"),
        (["create", "--policy", "[]"], "not a JSON object"),
        (["ls", "--url", "http://127.0.0.1:9"], "is mas-sandboxd running there"),
        (["cp", "a", "b"], "one of the two"),
        (["cp", "-x", "b"], "-x is no option"),
        (["code", "sb_1", "a.py", "-c", "1"], "not both"),
        (["port-forward", "sb_1", "0"], "is no port"),
        (["ps", "nonesuch"], "no such sandbox"),
    ],
)
def test_what_cannot_be_done_says_what_to_do(
    place: Sandbox, words: list[str], said: str, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(words) == 1
    shown = capfd.readouterr()
    assert shown.out == ""
    assert said in shown.err


def test_files_go_both_ways_as_cp_has_it(place: Sandbox, capfd: Capture) -> None:
    Path("run.sh").write_text("echo hello\n")
    Path("run.sh").chmod(0o750)
    place.files.mkdir("there")
    assert main(["cp", "run.sh", f"{place.id}:there"]) == 0
    assert main(["cp", "run.sh", f"{place.id}:new/name"]) == 0
    assert place.files.stat("there/run.sh").mode == 0o750
    assert place.files.read("new/name") == b"echo hello\n"
    assert main(["cp", f"{place.id}:there/run.sh", "back"]) == 0
    assert Path("back").stat().st_mode & 0o777 == 0o750
    assert main(["cp", f"{place.id}:new/name", "."]) == 0
    assert Path("name").read_text() == "echo hello\n"
    assert main(["cp", f"{place.id}:new/name", "-"]) == 0
    assert capfd.readouterr() == ("echo hello\n", "")
    assert main(["cp", f"{place.id}:nonesuch", "."]) == 1
    assert main(["cp", f"{place.id}:there", "."]) == 1
    assert "give -r" in capfd.readouterr().err
    assert sorted(path.name for path in Path().iterdir()) == ["back", "name", "run.sh"]


def test_stdin_becomes_a_file(place: Sandbox) -> None:
    words = ["cp", "-", f"{place.id}:piped"]
    subprocess.run([*PROGRAM, *words], input=b"\0\xff", check=True)
    assert place.files.read("piped") == b"\0\xff"


def test_directories_go_both_ways_as_cp_has_it(place: Sandbox, capfd: Capture) -> None:
    Path("tree/sub").mkdir(parents=True)
    Path("tree/a").write_text("one")
    Path("tree/sub/l").symlink_to("../a")
    Path("tree/fifo").touch()
    assert main(["cp", "tree", f"{place.id}:t"]) == 1
    assert main(["cp", "-r", "tree", f"{place.id}:t"]) == 0
    assert main(["cp", "-r", "tree", f"{place.id}:t"]) == 0
    assert main(["cp", "-r", "tree/.", f"{place.id}:u"]) == 0
    found = place.run("find t u | sort").stdout.split()
    assert found == [
        *("t", "t/a", "t/fifo", "t/sub", "t/sub/l"),
        *("t/tree", "t/tree/a", "t/tree/fifo", "t/tree/sub", "t/tree/sub/l"),
        *("u", "u/a", "u/fifo", "u/sub", "u/sub/l"),
    ]
    place.run("ln -s /etc/passwd u/out; mkfifo u/pipe")
    for _ in range(2):  # what is there is replaced
        assert main(["cp", "-r", f"{place.id}:u", "."]) == 0
    assert "out: left out" in capfd.readouterr().err
    assert sorted(path.name for path in Path("u").iterdir()) == ["a", "fifo", "sub"]
    assert Path("u/sub/l").read_text() == "one"
    assert sorted(path.name for path in Path().iterdir()) == ["tree", "u"]


def test_code_keeps_its_variables(place: Sandbox, capfd: Capture) -> None:
    Path("first.py").write_text("x = 6 * 7\nprint('done')")
    assert main(["code", place.id, "first.py"]) == 0
    assert main(["code", place.id, "-c", "x"]) == 0
    assert capfd.readouterr().out == "done\n42\n"
    assert main(["code", place.id, "-c", "x / 0"]) == 1
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert main(["code", place.id, "-c", "import time; time.sleep(100)", "--timeout", "1"]) == 130
    assert main(["code", place.id, "--json", "-c", "x"]) == 0
    assert json.loads(capfd.readouterr().out)["results"][0]["data"]["text/plain"] == "42"


SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 8000))
while True:
    with server.accept()[0] as made, made.makefile("rb") as lines:
        made.sendall(lines.read()[::-1])
"""


def test_a_port_is_forwarded_each_direction_to_its_end(place: Sandbox) -> None:
    place.processes.start(["python3", "-c", SERVER])
    place.run("until grep -q :1F40 /proc/net/tcp; do sleep 0.02; done", timeout=20)
    words = ["port-forward", place.id, "0:8000", "0:8001"]
    forwarding = subprocess.Popen([*PROGRAM, *words], stderr=subprocess.PIPE, text=True)
    assert forwarding.stderr is not None
    try:
        said = [forwarding.stderr.readline(), forwarding.stderr.readline()]
        served, refused = (int(line.split()[0].rpartition(":")[2]) for line in said)
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", served), 20) as client:
                client.sendall(b"forward" * 50_000)
                client.shutdown(socket.SHUT_WR)
                with client.makefile("rb") as answer:
                    assert answer.read() == b"drawrof" * 50_000
        with socket.create_connection(("127.0.0.1", refused), 20) as client:
            assert client.recv(1) == b""
        assert "port 8001: " in forwarding.stderr.readline()
        with socket.create_connection(("127.0.0.1", served), 20) as client:
            client.sendall(b"x")
            forwarding.send_signal(signal.SIGINT)
            assert client.recv(1) == b""
        assert forwarding.wait(20) == 0
        assert forwarding.stderr.read() == ""
    finally:
        forwarding.kill()
        forwarding.wait()
        forwarding.stderr.close()


def test_a_shell_completes_sandboxes_processes_and_files(place: Sandbox, capfd: Capture) -> None:
    place.processes.start(["sleep", "1000"], tag="sleeper")
    Path("notes").mkdir()
    for words, candidate in (
        (["exec", ""], place.id),
        (["logs", place.id, ""], "sleeper"),
        (["cp", ""], f"{place.id}:"),
        (["cp", "n"], "notes/"),
    ):
        main(["__complete", *words])
        found = [line.split("\t")[0] for line in capfd.readouterr().out.splitlines()]
        assert candidate in found, words
    for shell in ("bash", "zsh", "fish"):
        assert main(["completion", shell]) == 0
        script = capfd.readouterr().out
        assert {"port-forward", "__complete"} <= set(re.findall(r"[\w-]+", script))
