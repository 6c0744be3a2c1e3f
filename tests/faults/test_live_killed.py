"""Something dies in the middle of every operation in a named sandbox: whoever is left is told in
time and in words, nothing stays behind, and the audit log and the registry say how it ended."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

import census
from belongings import Belongings, Held, descendants
from conversation import Conversation
from live_operations import RECORDED, begin_all, prepare, until
from mas_sandbox.audit.verify import verify
from mas_sandbox.runtimes.jail.launch import named_launcher
from place import Place, client_of
from running_daemon import RunningDaemon, daemon

TOLD_WITHIN_S = 10.0
FLAGS = ("-pool", "0", "-audit-args", "-drain-timeout", "0.2")
DELAYS_S = (0.0, 0.001, 0.003, 0.01, 0.03)
"""Between a request that is quickly done and its client's or its sandbox's death."""


def told(code: str) -> dict[str, str]:
    """What each operation is told, as `Conversation.end` puts it, when the sandbox ends with a
    code. An answer whose body has begun can only break off."""
    event, refusal = f"200 exit {code}", f"503 {code}"
    return {
        "process, detached": event,
        "process, bound": event,
        "terminal": event,
        "attach": event,
        "stdin": refusal,
        "wait": f"200 exited {code}",
        "upload": refusal,
        "download": "lost",
        "pack": "lost",
        "unpack": refusal,
        "watch": f"200 error {code}",
        "watch (WebSocket)": f"200 error {code}",
        "call": f"200 error {code}",
        "code": f"200 end {code}",
        "code that waits (WebSocket)": f"200 end {code}",
        "port": "lost",
        "tunnel": "closed 1014",
    }


@dataclass(frozen=True)
class Watched:
    """A daemon, and what it has on this host; `nothing`: while it has no sandbox."""

    running: RunningDaemon
    client: httpx2.Client
    belongings: Belongings
    nothing: Held
    state: Path

    def outcomes(self, place: Place) -> dict[str, set[str]]:
        """The codes that the audit log has for what was done in a sandbox, by what that was;
        `open` where it has no outcome."""
        asked: dict[str, str] = {}
        ended: dict[str, str] = {}
        for line in (self.state / "audit.jsonl").read_text().splitlines():
            record = json.loads(line)
            if record["kind"] == "intent" and record["sandbox_id"] == place.id:
                given = json.loads(record["args_json"])
                asked[record["call_id"]] = given.get("operation", record["tool"])
            elif record["kind"] == "outcome":
                ended[record["call_id"]] = record["code"]
        found: dict[str, set[str]] = {}
        for call, what in asked.items():
            found.setdefault(what, set()).add(ended.get(call, "open"))
        return found


@contextmanager
def watched_daemon(runtime: str, state: Path) -> Iterator[Watched]:
    with daemon(state, *FLAGS, runtime=runtime) as running, client_of(running) as client:
        first = Place(client)
        prepare(first)
        belongings = Belongings(running, state)
        first.delete()
        yield Watched(running, client, belongings, belongings.none(), state)


def state_of(runtime: str, made: Path, templates: Path) -> Path:
    return templates if runtime == "microvm" else made


Watch = Callable[[str], Watched]


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory, templates: Path) -> Iterator[Watch]:
    """A daemon of a runtime, started when it is first asked for, shared by the module."""
    opened: dict[str, Watched] = {}
    with ExitStack() as undo:

        def of(runtime: str) -> Watched:
            if runtime not in opened:
                state = state_of(runtime, tmp_path_factory.mktemp("state"), templates)
                opened[runtime] = undo.enter_context(watched_daemon(runtime, state))
            return opened[runtime]

        yield of
    for each in opened.values():
        assert "Traceback" not in each.running.log.read_text()


def check_recorded(watched: Watched, place: Place, codes: set[str], ports: set[str]) -> None:
    wanted = dict.fromkeys(RECORDED, codes) | {"ports": ports}
    until(lambda: watched.outcomes(place).items() >= wanted.items(), 10)


VICTIMS = [
    ("local", "toolrunner", 0),
    *([("jail", "bwrap", 0), ("jail", "bwrap", 1)] if named_launcher() == "bubblewrap" else []),
    ("jail", "toolrunner.pyz", -1),
    ("gvisor", "bwrap", 0),
    ("gvisor", "runsc-sandbox", 0),
    ("microvm", "qemu-system", 0),
]
"""A word of its command line, and which of those that have it, the outermost first."""


@pytest.mark.long_in_a_machine
@pytest.mark.parametrize(("runtime", "word", "which"), VICTIMS)
def test_what_a_sandbox_is_made_of_is_killed(
    watch: Watch, runtime: str, word: str, which: int
) -> None:
    watched = watch(runtime)
    place = Place(watched.client)
    line = descendants(watched.running.process.pid)
    prepare(place)
    begun = begin_all(watched.running, place)
    os.kill([each for each in line if word in census.commands()[each]][which], signal.SIGKILL)
    assert {name: each.end(TOLD_WITHIN_S) for name, each in begun.items()} == told("guest_lost")
    until(lambda: place.info()["state"] == "interrupted", 5)
    assert place.info()["reason"].startswith("guest_lost: ")
    for what in ("processes", "pause"):
        assert watched.client.post(f"{place.url}/{what}", json={"cmd": "true"}).status_code in (
            400,
            404,
        )
    check_recorded(watched, place, {"guest_lost"}, {"guest_lost"})
    watched.belongings.come_to(watched.nothing)


@pytest.mark.parametrize("runtime", ["local", "jail", "gvisor"])
def test_the_clients_are_killed(watch: Watch, runtime: str) -> None:
    watched = watch(runtime)
    place = Place(watched.client)
    prepare(place)
    for each in begin_all(watched.running, place).values():
        each.abort()
    # Whoever has a tunnel may leave it when it likes.
    check_recorded(watched, place, {"interrupted"}, {"interrupted", ""})

    def states() -> dict[str, str]:
        listed = watched.client.get(f"{place.url}/processes").json()["processes"]
        return {each["tag"]: each["state"] for each in listed if each["tag"]}

    goes_on = dict.fromkeys(("deaf", "server", "detached", "terminal"), "running")
    until(lambda: states() == goes_on | {"bound": "exited"}, 10)

    def paused() -> bool:  # once the last of the calls that were cut off is gone
        return place.client.post(f"{place.url}/pause", json={}).status_code == 200

    until(paused, 10)
    assert place.post("resume")["state"] == "running"
    if runtime != "gvisor":  # which knows no files without a name
        assert place.run("ls -A in")[0] == b""
    place.delete()
    watched.belongings.come_to(watched.nothing)


def goes_on(place: Place) -> bool:
    """What was abandoned, a pause or a resume, may still be done, after this resume as well."""
    assert place.post("resume")["state"] == "running"
    try:
        return place.run("echo on")[0] == b"on\n"
    except AssertionError as refused:
        assert "the sandbox is paused" in str(refused)
        return False


@pytest.mark.parametrize("runtime", ["local", "jail"])
def test_clients_are_killed_while_a_sandbox_changes(watch: Watch, runtime: str) -> None:
    watched = watch(runtime)
    for delay in DELAYS_S:
        place = Place(watched.client)
        for what in ("/pause", "/resume", ""):
            path = f"/v1/sandboxes{what and f'/{place.id}{what}'}"
            begun = Conversation(watched.running, "POST", path, b"{}")
            time.sleep(delay)
            begun.abort()
        until(lambda place=place: goes_on(place), 5)
        begun = Conversation(watched.running, "DELETE", place.url)
        time.sleep(delay)
        begun.abort()
    # One whose creator had its answer on the way stays, as any that is left alone.
    while left := watched.client.get("/v1/sandboxes?state=running&state=paused").json():
        if not left["sandboxes"]:
            break
        for each in left["sandboxes"]:
            watched.client.delete(f"/v1/sandboxes/{each['sandbox_id']}")
    watched.belongings.come_to(watched.nothing)


@pytest.mark.parametrize("runtime", ["local", "jail"])
def test_a_sandbox_is_killed_while_it_changes(watch: Watch, runtime: str) -> None:
    watched = watch(runtime)
    daemon_process = watched.running.process.pid
    places = []
    for delay, what in itertools.product(DELAYS_S, ("pause", "resume", "delete")):
        before = set(descendants(daemon_process))
        place = Place(watched.client)
        places.append(place)
        outermost = min(set(descendants(daemon_process)) - before)
        if what == "resume":
            place.post("pause")
        method, path = ("DELETE", "") if what == "delete" else ("POST", f"/{what}")
        begun = Conversation(watched.running, method, place.url + path, b"{}")
        time.sleep(delay)
        with suppress(ProcessLookupError):  # it was ended sooner
            os.kill(outermost, signal.SIGKILL)
        answer = begun.end(TOLD_WITHIN_S)
        assert answer.split()[0] in ("200", "404", "503"), (what, answer)
        # What was paused in time is seen to be dead when it is to go on.
        watched.client.post(f"{place.url}/resume", json={})
    until(lambda: {each.info()["state"] for each in places} <= {"interrupted", "ended"}, 10)
    watched.belongings.come_to(watched.nothing)


@pytest.mark.long_in_a_machine
@pytest.mark.parametrize(
    ("runtime", "end"),
    [
        *itertools.product(("local", "jail"), (signal.SIGKILL, signal.SIGTERM)),
        ("gvisor", signal.SIGKILL),
        ("microvm", signal.SIGKILL),
    ],
)
def test_the_daemon_is_killed(
    runtime: str, end: signal.Signals, tmp_path: Path, templates: Path
) -> None:
    state = state_of(runtime, tmp_path, templates)
    with watched_daemon(runtime, state) as watched:
        place, to_pause, paused, to_delete = (Place(watched.client) for _ in range(4))
        prepare(place)
        paused.post("pause")
        begun = begin_all(watched.running, place)
        processes = frozenset(descendants(watched.running.process.pid))
        changes = [
            Conversation(watched.running, "POST", "/v1/sandboxes", b"{}"),
            Conversation(watched.running, "POST", f"{to_pause.url}/pause", b"{}"),
            Conversation(watched.running, "POST", f"{paused.url}/resume", b"{}"),
            Conversation(watched.running, "DELETE", to_delete.url),
        ]
        watched.running.process.send_signal(end)
        answers = {name: each.end(TOLD_WITHIN_S) for name, each in begun.items()}
        if end is signal.SIGKILL:
            assert set(answers.values()) == {"lost"}
        else:
            assert answers == told("interrupted")
        for each in changes:
            assert each.end(TOLD_WITHIN_S).split()[0] in ("lost", "200", "404", "409", "503")
        assert watched.running.process.wait(10) == (-end if end is signal.SIGKILL else 0)
        if end is signal.SIGTERM:
            assert not watched.belongings.left()
        assert "Traceback" not in watched.running.log.read_text()
    with daemon(state, *FLAGS, runtime=runtime) as running, client_of(running) as client:
        # A process that version 1 of control groups has frozen dies only now.
        watched.belongings.gone(processes, 5)
        assert not watched.belongings.left()
        query = "?state=running&state=paused&limit=1000"
        assert client.get(f"/v1/sandboxes{query}").json()["sandboxes"] == []
        for each in (place, to_pause, paused):
            assert client.get(each.url).json()["state"] == "interrupted"
            assert client.post(f"{each.url}/resume", json={}).status_code == 404
        assert client.get(to_delete.url).json()["state"] in ("interrupted", "ended")
        found = verify(state / "audit.jsonl")
    assert (found.problems, found.unfinished) == ([], 0)
    check_recorded(watched, place, {"interrupted"}, {"interrupted"})
