"""`Sandbox` against a real daemon: its life, its programs, its files."""

from __future__ import annotations

import io
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from itertools import islice

import pytest

from mas_sandbox.sdk import (
    CallError,
    CommandFailed,
    DirectoryNotEmpty,
    Exited,
    FileError,
    FileExists,
    FileForbidden,
    FileNotFound,
    InvalidRequest,
    IsADirectory,
    NotADirectory,
    NotFound,
    Output,
    OutputLimit,
    Sandbox,
    Started,
    ToolFailed,
)
from mas_sandbox.sdk.asked import files as asked_files
from mas_sandbox.wire.errors import ErrorCode
from running_daemon import TOKEN, RunningDaemon


def test_a_sandbox_lives_for_its_block_and_is_listed(running: RunningDaemon) -> None:
    with Sandbox.create(running.url, TOKEN, metadata={"run": "listed"}, timeout_s=60) as made:
        (listed,) = Sandbox.list(running.url, TOKEN, metadata={"run": "listed"})
        assert listed.sandbox_id == made.id
        assert made.pause().state == "paused"
        assert made.resume(90).timeout_s == 90
        assert made.extend(50).timeout_s == 50
        assert made.execute("bash", {"command": "pwd"}).result == "/workspace\n"
        with Sandbox.connect(made.id, running.url, TOKEN) as other:
            assert other.run("echo shared > here").exit_code == 0
        assert made.refresh().state == "running"
        assert made.files.read_text("here") == "shared\n"
        made.kill()
        made.kill()
        assert made.info.state == "ended"
    assert list(Sandbox.list(running.url, TOKEN, metadata={"run": "listed"})) == []
    with pytest.raises(NotFound):
        Sandbox.connect("sb_none", running.url, TOKEN)


def test_what_its_block_raises_is_told_and_not_that_it_could_not_be_ended(
    running: RunningDaemon,
) -> None:
    with pytest.raises(KeyError), Sandbox.create(running.url, TOKEN) as made:
        made.close()
        raise KeyError
    with Sandbox.connect(made.id, running.url, TOKEN) as left:
        left.kill()


def test_a_program_is_run_to_its_end(sb: Sandbox) -> None:
    ran = sb.run("echo out; echo err >&2; exit 3")
    assert (ran.exit_code, ran.signal, ran.stdout, ran.stderr) == (3, None, "out\n", "err\n")
    with pytest.raises(CommandFailed, match="ended with 3: err") as failed:
        ran.check()
    assert failed.value.finished is ran
    assert sb.run(["echo", "$HOME", "a  b"]).check().stdout == "$HOME a  b\n"
    sb.files.mkdir("elsewhere")
    said = sb.run("echo $A; pwd", env={"A": "1"}, cwd="/workspace/elsewhere").stdout
    assert said == "1\n/workspace/elsewhere\n"
    assert sb.run("kill -TERM $$").signal == 15
    with pytest.raises(CallError):
        sb.run(["/no/such/program"])


def test_a_program_that_takes_too_long_is_ended_and_says_so(sb: Sandbox) -> None:
    ran = sb.run("echo begun; sleep 60", timeout=1)
    assert ran.error is not None
    assert (ran.error.code, ran.stdout) == (ErrorCode.TIMEOUT, "begun\n")
    with pytest.raises(CommandFailed):
        ran.check()
    for nonsense in (0, -1, float("nan")):
        with pytest.raises(InvalidRequest, match="timeout"):
            sb.run("true", timeout=nonsense)


def test_a_program_reads_nothing_or_what_it_is_given(sb: Sandbox) -> None:
    assert sb.run("cat; echo end").stdout == "end\n"
    assert sb.run(["cat"], stdin="é\n").stdout == "é\n"
    # More than all buffers together: it is read while it is written.
    assert len(sb.run(["cat"], stdin=b"x" * 3_000_000).stdout) == 3_000_000
    assert sb.run("head -c 3", stdin=b"x" * 3_000_000).check().stdout == "xxx"


def test_what_a_program_writes_is_told_as_it_comes(sb: Sandbox) -> None:
    told: list[str] = []

    def answer(text: str) -> None:
        told.append(text)
        sb.files.write("go", "")

    # The character is written in two halves; the second only when the first line was told.
    program = "echo one; while ! test -e go; do sleep 0.02; done; printf '\\303'; printf '\\251'"
    ran = sb.run(program, on_stdout=answer, timeout=20)
    assert ran.check().stdout == "one\né" == "".join(told)
    assert told[0] == "one\n"


def test_a_callback_that_raises_ends_the_program(sb: Sandbox) -> None:
    def refuse(text: str) -> None:
        raise KeyError(text)

    with pytest.raises(KeyError):
        sb.run(["cat"], stdin="x" * 30_000_000, on_stdout=refuse)  # more than is on its way
    eventually(lambda: all(each.state == "exited" for each in sb.processes.list()))


def test_a_process_is_fed_watched_and_found_again(sb: Sandbox) -> None:
    process = sb.processes.start("read line; echo got $line; cat", tag="fed")
    process.write("this\n")
    process.write(b"x" * 300_000)
    process.close_stdin()
    started, *outputs, exited = process
    assert started == Started(type="start", pid=process.pid, tag="fed")
    data = b"".join(event.data for event in outputs if isinstance(event, Output))
    assert data == b"got this\n" + b"x" * 300_000
    assert isinstance(exited, Exited)
    assert exited.exit_code == 0
    again = sb.processes.get("fed")
    assert (again.pid, again.info.state) == (process.pid, "exited")
    assert process.wait().exit_code == 0
    later = [event for event in again.events(300_000) if isinstance(event, Output)]
    assert later[0].offset == 300_000
    with pytest.raises(ToolFailed):
        process.write("more")
    with pytest.raises(NotFound):
        sb.processes.get("nobody")


def test_a_process_is_waited_for_signalled_and_killed(sb: Sandbox) -> None:
    process = sb.processes.start("trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done")
    with process.events() as events:
        assert [type(event) for event in islice(events, 2)] == [Started, Output]
    assert process.wait(0.1).state == "running"
    process.signal("SIGINT")
    assert process.wait(20).exit_code == 7
    sleeping = sb.processes.start(["sleep", "60"])
    assert sleeping.kill().signal == 9
    assert sleeping.refresh().state == "exited"
    with pytest.raises(InvalidRequest, match="terminal"):
        sleeping.resize(1, 1)


def test_a_terminal_is_talked_to(sb: Sandbox) -> None:
    process = sb.processes.start("stty size; read x; stty size; read x", pty=(33, 100))
    with process.attach() as attached:
        written = b""
        for event in attached:
            if not isinstance(event, Output):
                continue
            assert event.type == "pty"
            written += event.data
            if written.endswith(b"33 100\r\n"):
                attached.resize(40, 120)
                attached.write("\n")
            if written.endswith(b"40 120\r\n"):
                attached.signal("SIGTERM")
    assert process.wait(20).signal == 15
    with sb.processes.open(["cat"]) as attached:
        assert isinstance(next(attached), Started)
        attached.write(b"y" * 300_000)
        attached.close_stdin()
        assert sum(len(each.data) for each in attached if isinstance(each, Output)) == 300_000
        assert list(attached) == []
        with pytest.raises(ToolFailed, match="has ended"):
            for _ in range(100):  # until the end of the connection has arrived
                attached.write(b"more")
                time.sleep(0.05)


def test_writing_to_one_that_reads_no_more_does_not_end_the_reading(sb: Sandbox) -> None:
    with sb.processes.open("exec <&-; echo closed; sleep 0.3; echo end") as attached:
        written = b""
        for event in attached:
            if isinstance(event, Output):
                written += event.data
                if written == b"closed\n":
                    attached.write(b"x" * 100_000)
    assert written == b"closed\nend\n"


def test_an_attachment_to_nothing_is_refused_with_the_reason(sb: Sandbox) -> None:
    process = sb.processes.start("true")
    process.pid = 999_999
    with pytest.raises(NotFound, match="no such process"):
        process.attach()
    with pytest.raises(InvalidRequest), sb.processes.open([]) as attached:
        list(attached)


def test_files_go_in_and_out(sb: Sandbox) -> None:
    entry = sb.files.write("f/deep/run", "echo hé", mode=0o755)
    assert (entry.path, entry.mode, entry.size) == ("/workspace/f/deep/run", 0o755, 8)
    assert sb.files.read_text("f/deep/run") == "echo hé"
    content = bytes(range(256)) * 4000
    assert sb.files.write("f/file", io.BytesIO(content)).size == len(content)
    assert sb.files.write("f/pieces", (content for _ in range(2))).size == 2 * len(content)
    with sb.files.stream("f/pieces") as pieces:
        assert b"".join(pieces) == content * 2
    assert sb.files.write("f/empty", b"").size == 0
    assert sb.files.read("f/empty") == b""
    names = [each.path for each in sb.files.list("f", depth=2)]
    assert names[:2] == ["/workspace/f/deep", "/workspace/f/deep/run"]
    assert sb.files.move("f/file", "f/moved").name == "moved"
    assert (sb.files.exists("f/file"), sb.files.exists("f/moved")) == (False, True)
    assert sb.files.mkdir("f/new/er").type == "directory"
    sb.files.remove("f", recursive=True)
    assert not sb.files.exists("f/moved/below")


def test_an_upload_that_breaks_off_changes_nothing(sb: Sandbox) -> None:
    sb.files.write("whole", "before")

    def broken() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise KeyError

    with pytest.raises(KeyError):
        sb.files.write("whole", broken())
    assert sb.files.read("whole") == b"before"


def test_many_files_are_written_whatever_their_size_and_number(
    sb: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked_files, "MAX_BATCH", 3)
    monkeypatch.setattr(asked_files, "MAX_BATCH_BYTES", 1000)
    files = {f"many/{n}": b"%d" % n for n in range(8)} | {"many/large": "x" * 2000}
    files |= {"many/a": b"a" * 600, "many/b": b"b" * 600}
    written = sb.files.write_many(files, mode=0o600)
    assert [entry.name for entry in written] == [path.removeprefix("many/") for path in files]
    assert {entry.mode for entry in written} == {0o600}
    assert [sb.files.read(f"many/{name}")[:1] for name in ("7", "b", "large")] == [b"7", b"b", b"x"]
    with pytest.raises(FileError) as failed:
        sb.files.write_many({"many/0/below": "", "many/after": "written"})
    assert type(failed.value) is NotADirectory
    assert sb.files.read("many/after") == b"written"


def test_why_a_file_failed_is_a_class(sb: Sandbox) -> None:
    sb.files.write("e/file", "")
    with pytest.raises(NotFound) as missing:
        sb.files.read("e/none")
    assert type(missing.value) is FileNotFound
    with pytest.raises(IsADirectory):
        sb.files.write("e", "")
    with pytest.raises(NotADirectory):
        sb.files.list("e/file")
    with pytest.raises(FileExists):
        sb.files.mkdir("e/file", parents=False)
    with pytest.raises(DirectoryNotEmpty):
        sb.files.remove("e")
    with pytest.raises(FileForbidden):
        sb.files.read("/etc/shadow")


def test_a_directory_that_is_too_large_to_list_is_not_cut(
    sb: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sb.files.write_many({f"wide/{n}": "" for n in range(4)})
    monkeypatch.setattr(asked_files, "MAX_ENTRIES", 3)
    with pytest.raises(OutputLimit, match="3 entries"):
        sb.files.list("wide")


def test_a_directory_is_watched_from_the_moment_it_is_asked_for(sb: Sandbox) -> None:
    sb.files.mkdir("watched/below")
    with sb.files.watch("watched", recursive=True) as changes:
        sb.files.write("watched/below/new", "x")
        change = next(changes)
    assert (change.type, change.path) == ("created", "/workspace/watched/below/new")
    with pytest.raises(FileNotFound):
        sb.files.watch("nowhere")


def test_an_archive_goes_down_and_up(sb: Sandbox) -> None:
    sb.files.write_many({"packed/a": "1", "packed/b/c": "2" * 100_000})
    with sb.files.download_archive("packed") as pieces:
        archive = b"".join(pieces)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert [name.rstrip("/").removeprefix("./") for name in tar.getnames()][-1] == "b/c"
    sb.files.mkdir("unpacked")
    assert sb.files.upload_archive("unpacked", archive).entries >= 2
    assert sb.files.upload_archive("unpacked", io.BytesIO(archive)).bytes == 100_001
    assert sb.files.read("unpacked/b/c") == b"2" * 100_000


def test_a_signed_url_is_whole_and_needs_no_token(sb: Sandbox) -> None:
    sb.files.write("signed", "open")
    with urllib.request.urlopen(sb.files.sign("signed", expires_s=60), timeout=10) as answer:
        assert answer.read() == b"open"


def test_the_end_of_the_sandbox_ends_what_is_read_from_it(running: RunningDaemon) -> None:
    with Sandbox.create(running.url, TOKEN) as made, made.files.watch() as changes:
        with pytest.raises(CallError):
            made.run("echo ready; sleep 60", on_stdout=lambda _: made.kill())
        with pytest.raises(CallError):
            list(changes)


def eventually(holds: object, seconds: float = 10) -> None:
    assert callable(holds)
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
