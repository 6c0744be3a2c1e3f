"""`mas-sandbox` as a person uses it: words on the screen, exit statuses, what it starts."""

from __future__ import annotations

import asyncio
import doctest
import json
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import census
from doubles import stdio_daemon
from mas_sandbox.audit.log import AuditLog
from mas_sandbox.cli import code, cp, forward, ls, processes, repl, run, screen, serve, words
from mas_sandbox.cli.commands import COMMANDS
from mas_sandbox.cli.main import main

DAEMON = shlex.join([sys.executable, "-I", "-S", str(stdio_daemon.__file__)])
PROGRAM = [sys.executable, "-m", "mas_sandbox.cli.main"]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MAS_SANDBOX_URL", "MAS_SANDBOX_TOKEN", "MAS_SANDBOX_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MAS_SANDBOXD", DAEMON)
    monkeypatch.setenv("MAS_SANDBOX_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")


def probing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, document: object) -> None:
    """A daemon whose -probe prints `document`."""
    program = tmp_path / "mas-sandboxd"
    program.write_text(f"#!/bin/sh\n[ \"$1\" = -probe ] && cat <<'E'\n{json.dumps(document)}\nE\n")
    program.chmod(0o755)
    monkeypatch.setenv("MAS_SANDBOXD", str(program))


def findings(jail: bool = True) -> dict[str, Any]:
    local = {"available": True, "isolation": "none", "controls": {}}
    walls = {
        "available": jail,
        "version": "0.8.0" if jail else "",
        "reason": "" if jail else "bubblewrap is not installed",
        "mend": "" if jail else "apt install bubblewrap",
        "isolation": "process",
        "controls": {
            "network": {"enforced": True, "mechanism": "empty network namespace", "mend": ""},
            "memory": {"enforced": False, "mechanism": "cgroup", "mend": "mount the cgroup"},
        },
    }
    return {
        "version": "0.1.0",
        "host": {"kernel": "6.1.0", "python": "3.11.7", "uid": 1000},
        "runtimes": {"local": local, "jail": walls},
    }


def test_help_and_version_succeed_and_wrong_usage_does_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    assert "mas-sandbox run calculator" in capsys.readouterr().out
    for command in [name for group in COMMANDS.values() for name in group]:
        if command != "serve":
            assert main([command, "--help"]) == 0
            assert f"  mas-sandbox {command}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    for wrong in (["nope"], ["run"], ["doctor", "--nope"]):
        with pytest.raises(SystemExit) as ended:
            main(wrong)
        assert ended.value.code not in (0, None)


def test_every_command_is_documented() -> None:
    documented = (Path(__file__).parents[3] / "docs/cli.md").read_text()
    for name in [name for group in COMMANDS.values() for name in group]:
        assert f"`mas-sandbox {name}`" in documented


def test_run_prints_the_result_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "large", "-a", "bytes:=3"]) == 0
    assert capsys.readouterr() == ("xxx\n", "")
    assert main(["run", "echo", "--arg", "a=1", "--arg", "b:=[1]", "--json-args", '{"c":2}']) == 0
    assert json.loads(capsys.readouterr().out)["args"] == {"a": "1", "b": [1], "c": 2}


def test_run_narrows_by_policy_and_names_a_sandbox(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "echo", "--policy", '{"mem_mb": 64}', "--sandbox-id", "sb_1", "--json"]
    assert main([*words, "--idempotency-key", "k 1"]) == 0
    reply = json.loads(capsys.readouterr().out)
    assert reply["isolation"] == "none"
    assert (reply["result"]["policy"], reply["result"]["sandbox_id"]) == ({"mem_mb": 64}, "sb_1")
    assert reply["result"]["idempotency_key"] == "k 1"


def test_a_failed_call_is_one_line_on_stderr_and_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "fail", "-a", "code=policy_denied"]) == 1
    assert capsys.readouterr() == ("", "mas-sandbox: policy_denied: scripted\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["echo", "-a", "novalue"], "NAME=TEXT"),
        (["echo", "-a", "n:={"], "not JSON"),
        (["echo", "--json-args", "[]"], "not a JSON object"),
        (["echo", "--url", "http://x", "--runtime", "jail"], "leave them out"),
        (["echo", "--url", "localhost"], "address of a daemon"),
        (["echo", "--url", "http://127.0.0.1:9"], "is mas-sandboxd running there"),
        (["die"], "audit log cannot be opened"),
    ],
)
def test_what_cannot_be_run_says_what_to_do(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("mas-sandbox: ")
    assert said in err


def test_output_of_a_tool_cannot_steer_a_terminal_but_a_pipe_gets_it_raw() -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egone"
    command = [*PROGRAM, "run", "say", "-a", f"text={evil}"]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stdout.decode() == piped.stderr.decode() == evil + "\n"
    ours, theirs = pty.openpty()
    subprocess.run(command, stdout=theirs, stderr=theirs, check=True)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    os.close(theirs)
    assert shown.count(r"\x1b]0;owned\x07\x1b[2J\u202egone") == 2
    assert not {"\x1b", "\x07", "\u202e"} & set(shown)


def test_tools_lists_the_built_in_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tools"]) == 0
    out = capsys.readouterr().out
    assert "calculator" in out
    assert "\x1b" not in out
    assert main(["tools", "--json"]) == 0
    described = {tool["name"]: tool for tool in json.loads(capsys.readouterr().out)}
    assert described["calculator"]["input_schema"]["required"] == ["expression"]


def test_doctor_shows_what_is_enforced_and_the_commands_that_mend(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probing(monkeypatch, tmp_path, findings())
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "✓ empty network namespace" in out
    assert "✗ cgroup" in out
    assert "  mount the cgroup\n      for memory in jail\n" in out
    assert "`-runtime auto` takes jail" in out


def test_doctor_never_promises_an_emulated_machine_to_auto(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = findings()
    emulated = {"available": True, "taken_by_auto": False, "isolation": "vm", "controls": {}}
    found["runtimes"]["microvm"] = emulated
    probing(monkeypatch, tmp_path, found)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "`-runtime auto` takes jail" in out
    assert "`-runtime microvm` works too, emulated" in out


def test_doctor_fails_where_there_are_no_walls(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    probing(monkeypatch, tmp_path, findings(jail=False))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "✗ bubblewrap is not installed" in out
    assert "apt install bubblewrap" in out
    assert "not ready" in out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["auto"] is None


@pytest.mark.parametrize("command", ["/no/such/mas-sandboxd", "/bin/false", "/bin/echo"])
def test_doctor_without_a_daemon_is_worded(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAS_SANDBOXD", command)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err.startswith("mas-sandbox: internal: ")


def test_serve_becomes_the_daemon_and_listens_unless_told_otherwise() -> None:
    show = "import sys; print(*sys.argv[1:]); sys.exit(7)"
    environment = os.environ | {"MAS_SANDBOXD": shlex.join([sys.executable, "-c", show])}
    for given, passed in (
        (["-runtime", "jail"], "-listen :8080 -runtime jail"),
        (["--listen=:1"], "--listen=:1"),
        (["-help"], "-help"),
    ):
        ended = subprocess.run([*PROGRAM, "serve", *given], env=environment, capture_output=True)
        assert (ended.returncode, ended.stdout.decode().strip()) == (7, passed)


def test_ctrl_c_ends_quietly_with_130() -> None:
    calling = subprocess.Popen(
        [*PROGRAM, "run", "stubborn"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's `&` ignores it
    )
    deadline = time.monotonic() + 20
    while not census.children(calling.pid):  # the daemon that it calls
        assert time.monotonic() < deadline
        time.sleep(0.02)
    calling.send_signal(signal.SIGINT)
    assert calling.communicate(timeout=20) == (b"", b"")
    assert calling.returncode == 130


def test_a_reader_that_leaves_is_no_traceback() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(
        [*PROGRAM, "tools", "--json"], stdout=writing, stderr=subprocess.PIPE, check=False
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, b"")


async def written(directory: Path) -> None:
    log = AuditLog.open(directory)
    for call_id, tool, action in (("c1", "calculator", "allow"), ("c2", "ev\x1bil", "deny")):
        decision = {"action": action, "rule": "operator/tools", "reason": "r"}
        await log.intent(
            call_id=call_id,
            principal="local",
            sandbox_id="",
            tool=tool,
            args={},
            decision=decision,
            trace={},
        )
        await log.outcome(
            call_id=call_id,
            status="ok" if action == "allow" else "error",
            code="" if action == "allow" else "policy_denied",
            exit_code=0,
            cpu_ms=1,
            wall_ms=2,
            isolation="process",
            enforced=[],
        )
    await log.close()


def test_audit_shows_and_verifies_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asyncio.run(written(tmp_path / "state"))
    assert main(["audit", "tail"]) == 0
    out = capsys.readouterr().out
    assert "calculator   allow   by operator/tools for local" in out
    assert "policy_denied" in out
    assert r"ev\x1bil" in out
    assert main(["audit", "tail", "-n", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "stop"
    assert main(["audit", "verify"]) == 0
    assert "2 calls" in capsys.readouterr().out

    log = tmp_path / "state/audit.jsonl"
    log.write_bytes(log.read_bytes().replace(b"calculator", b"calculatox"))
    assert main(["audit", "verify"]) == 1
    assert "line 2: " in capsys.readouterr().out
    assert main(["audit", "verify", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_audit_without_a_log_says_where_it_looked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (["verify"], ["tail", "-f"]):
        assert main(["audit", *arguments]) == 1
        assert f"{tmp_path}/state/audit.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    "module", [code, cp, forward, ls, processes, repl, run, screen, serve, words]
)
def test_examples_in_docstrings_run(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert tried > 0
    assert failed == 0


def test_what_a_command_does_not_need_is_not_imported() -> None:
    program = (
        "import sys; from mas_sandbox.cli.main import main; main(['run', 'echo'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    loaded = {name.partition(".")[0] for name in ran.stderr.decode().split()}
    assert not loaded & {"httpx2", "rich", "fastapi", "uvicorn", "asyncio", "yaml"}
