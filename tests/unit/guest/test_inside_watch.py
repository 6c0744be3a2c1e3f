"""sandbox.watch, through a real toolrunner: what happens is told, once and in order."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doubles.host import Host, Stream
from mas_sandbox.guest.tools.inside.batch import Batch
from mas_sandbox.wire import strict_json

Event = tuple[str, ...]


class Watch:
    def __init__(self, host: Host, **args: object) -> None:
        self.host = host
        self._events: list[Event] = []
        self._parsed = 0
        self.stream: Stream = host.start(
            "sandbox.watch", {"path": "/workspace", **args}, output_bytes=1 << 40
        )
        self.seen(lambda events: events[:1] and events[0][0] == "watching")

    @property
    def events(self) -> list[Event]:
        """Event, path and target; the paths relative to the workspace."""
        end = self.stream.stdout.rfind(b"\n") + 1
        for line in self.stream.stdout[self._parsed : end].splitlines():
            told = strict_json.loads(line)
            self._events.append(
                tuple(
                    told[key].removeprefix("/workspace").lstrip("/")
                    for key in ("event", "path", "to")
                    if key in told
                )
            )
        self._parsed = end
        return self._events

    def seen(self, done: Callable[[list[Event]], Any]) -> list[Event]:
        """Without the first, which says that it watches."""
        self.host.until(lambda: done(self.events) or self.stream.result is not None)
        assert done(self.events), (self.events, self.stream.result)
        return self.events[1:]

    def until(self, *event: str) -> list[Event]:
        return self.seen(lambda events: event in events)


def test_each_change_is_told(host: Host, workspace: Path) -> None:
    (workspace / "old").write_bytes(b"1")
    watch = Watch(host)
    (workspace / "new").write_bytes(b"x")
    assert watch.until("created", "new") == [("created", "new")]
    with (workspace / "old").open("ab") as old:
        for _ in range(500):
            old.write(b"x")
            old.flush()
    watch.until("modified", "old")
    (workspace / "new").rename(workspace / "newer")
    watch.until("moved", "new", "newer")
    (workspace / "old").chmod(0o600)
    (workspace / "newer").unlink()
    events = watch.until("removed", "newer")
    assert events.count(("modified", "old")) < 50
    assert set(events) == {
        ("created", "new"),
        ("modified", "old"),
        ("moved", "new", "newer"),
        ("removed", "newer"),
    }


def test_a_new_file_of_the_hosts_is_told_once(host: Host) -> None:
    watch = Watch(host)
    host.call("write_file", {"path": "f", "content": "x"})
    assert watch.until("created", "f") == [("created", "f")]


def test_below_is_told_only_where_asked_for(host: Host, workspace: Path) -> None:
    (workspace / "d").mkdir()
    flat, deep = Watch(host), Watch(host, recursive=True)
    (workspace / "d/f").write_bytes(b"")
    (workspace / "end").write_bytes(b"")
    assert flat.until("created", "end") == [("created", "end")]
    assert deep.until("created", "end") == [("created", "d/f"), ("created", "end")]


def test_directories_that_come_later_are_watched_with_what_they_hold(
    host: Host, workspace: Path
) -> None:
    watch = Watch(host, recursive=True)
    for number in range(20):
        (workspace / f"{number}/a/b").mkdir(parents=True)
        (workspace / f"{number}/a/b/f").write_bytes(b"")
    watch.until("created", "19/a/b/f")
    watch.host.take_for(0.2)
    created = [path for event, path, *_ in watch.events if event == "created"]
    expected = [f"{n}{rest}" for n in range(20) for rest in ("", "/a", "/a/b", "/a/b/f")]
    assert sorted(created) == sorted(expected)
    (workspace / "7/a/b/f").unlink()
    watch.until("removed", "7/a/b/f")


def test_a_directory_that_moves_is_followed_inside_and_left_outside(
    host: Host, workspace: Path, tmp_path: Path
) -> None:
    (workspace / "a/sub").mkdir(parents=True)
    watch = Watch(host, recursive=True)
    (workspace / "a").rename(workspace / "b")
    watch.until("moved", "a", "b")
    (workspace / "b/sub/f").write_bytes(b"")
    watch.until("created", "b/sub/f")
    (workspace / "b").rename(tmp_path / "away")
    watch.until("removed", "b")
    host.take_for(0.1)
    assert watches(host) == 1
    (tmp_path / "away/sub/secret").write_bytes(b"")
    (workspace / "b").mkdir()
    (workspace / "b/g").write_bytes(b"")
    events = watch.until("created", "b/g")
    assert not [event for event in events if "secret" in event[1]]
    (tmp_path / "away").rename(workspace / "back")
    assert ("created", "back/sub/secret") in watch.until("created", "back/sub/secret")


def test_a_link_to_a_directory_is_not_entered(host: Host, workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    watch = Watch(host, recursive=True)
    (workspace / "out").symlink_to(tmp_path / "outside")
    (workspace / "loop").symlink_to(".")
    watch.until("created", "loop")
    (tmp_path / "outside/secret").write_bytes(b"")
    (workspace / "end").write_bytes(b"")
    names = {event[1] for event in watch.until("created", "end")}
    assert names == {"out", "loop", "end"}


def test_it_ends_when_its_directory_goes(host: Host, workspace: Path) -> None:
    for end in (Path.rmdir, lambda path: path.rename(path.with_name("elsewhere"))):
        (workspace / "d").mkdir()
        watch = Watch(host, path="/workspace/d", recursive=True)
        end(workspace / "d")
        host.finish(watch.stream)
        assert watch.events[-1] == ("removed", "d")
        assert watch.stream.value == {"path": "/workspace/d"}


def test_lost_events_are_admitted_and_watching_goes_on(host: Host, workspace: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    watch = Watch(host, recursive=True)
    process = int(watching(host).parts[2])
    stop(process)  # as it stands still for a reader that is slow
    (workspace / "d").mkdir()
    for number in range(limit + 100):
        os.close(os.open(workspace / f"{number}", os.O_CREAT))
    os.kill(process, signal.SIGCONT)
    watch.until("overflow", "")
    (workspace / "d/f").write_bytes(b"")
    watch.until("created", "d/f")


def stop(process: int) -> None:
    """A read that is under way takes what comes, until the process is stopped."""
    os.kill(process, signal.SIGSTOP)
    while Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][0] != "T":
        time.sleep(0.001)


def watching(host: Host) -> Path:
    """The inotify descriptor, of whichever process has one."""
    pid = host.process.pid
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        for entry in Path(f"/proc/{child}/fd").iterdir():
            if os.readlink(entry) == "anon_inode:inotify":
                return entry
    raise AssertionError("no process watches")


def watches(host: Host) -> int:
    entry = watching(host)
    return (entry.parent.parent / "fdinfo" / entry.name).read_text().count("inotify wd:")


def test_cancel_ends_it_and_a_file_is_refused(host: Host, workspace: Path) -> None:
    watch = Watch(host)
    started = time.monotonic()
    host.cancel(watch.stream)
    result = host.finish(watch.stream).result
    assert result is not None
    assert result.code == "interrupted"
    assert time.monotonic() - started < 5
    (workspace / "f").write_bytes(b"")
    for path, reason in (("f", "not_a_directory"), ("none", "not_found")):
        refused = host.call("sandbox.watch", {"path": path}).result
        assert refused is not None
        assert refused.reason == reason


def test_more_directories_than_its_bound_are_refused(host: Host, workspace: Path) -> None:
    for top in range(92):
        for number in range(90):
            os.makedirs(workspace / f"{top}/{number}")
    refused = host.call("sandbox.watch", {"path": ".", "recursive": True}).result
    assert refused is not None
    assert refused.reason == "too_large"


def test_a_batch_says_nothing_twice() -> None:
    batch = Batch()
    batch.add("created", "/a")
    batch.add("modified", "/a")
    batch.moved_from(1, "/a")
    assert batch.moved_to(1, "/b")
    batch.add("modified", "/b")
    batch.add("modified", "/b")
    batch.moved_from(2, "/c")
    assert not batch.moved_to(3, "/d")
    assert batch.events == [
        {"event": "created", "path": "/a"},
        {"event": "moved", "path": "/a", "to": "/b"},
        {"event": "modified", "path": "/b"},
        {"event": "removed", "path": "/c"},
    ]
