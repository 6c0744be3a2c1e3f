"""Every operation in a named sandbox that takes a while, brought to its middle."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Callable
from typing import Any

from conversation import Conversation, Terminal
from place import Place
from running_daemon import RunningDaemon

NDJSON, SSE = "application/x-ndjson", "text/event-stream"
BYTES = "application/octet-stream"
BIG = 64 << 20
FOR_EVER = "echo begun; exec sleep 1000"
RECORDED = ("write", "read", "pack", "unpack", "watch", "bash", "run")
"""What the audit log calls those that last as long as their client; `ports` besides."""


SERVER = """
import socket
server, kept = socket.create_server(("127.0.0.1", 0)), []
print(server.getsockname()[1], file=open("port", "w"))
while True:
    kept.append(server.accept()[0])
    kept[-1].recv(1)
    kept[-1].sendall(b"HTTP/1.1 200 OK\\r\\ncontent-length: 100\\r\\n\\r\\nhalf")
"""
CODE = {"code": "print('begun', flush=True); import time; time.sleep(1000)"}


def prepare(place: Place) -> None:
    """What the operations work on."""
    place.run(f"mkdir in packed; truncate -s {BIG} packed/big")
    place.start(cmd="exec sleep 1000", tag="deaf")
    place.start(argv=["python3", "-c", SERVER], tag="server")
    until(lambda: place.run("cat port")[0] != b"")


def begin_all(running: RunningDaemon, place: Place) -> dict[str, Conversation | Terminal]:
    """Each operation, in its middle, in a sandbox that was prepared."""
    return {name: begin(running, place) for name, begin in OPERATIONS.items()}


def _started(running: RunningDaemon, place: Place, **fields: Any) -> Conversation:
    body = json.dumps({"cmd": FOR_EVER} | fields).encode()
    begun = Conversation(running, "POST", f"{place.url}/processes", body, accept=NDJSON)
    begun.until(b"stdout")
    return begun


def _detached(running: RunningDaemon, place: Place) -> Conversation:
    return _started(running, place, tag="detached")


def _bound(running: RunningDaemon, place: Place) -> Conversation:
    return _started(running, place, tag="bound", on_disconnect="cancel")


def _terminal(running: RunningDaemon, place: Place) -> Terminal:
    begun = Terminal(
        running, f"{place.url}/processes/ws", {"cmd": FOR_EVER, "pty": {}, "tag": "terminal"}
    )
    begun.until(b'"pty"')
    return begun


def _attached(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "GET", f"{place.url}/processes/deaf/events", accept=SSE)
    begun.until(b"start")
    return begun


def _stdin(running: RunningDaemon, place: Place) -> Conversation:
    path = f"{place.url}/processes/deaf/stdin"
    begun = Conversation(running, "POST", path, kind=BYTES, length=BIG)
    begun.push()
    return begun


def _wait(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "POST", f"{place.url}/processes/deaf/wait", b"{}")
    place.run("true")  # what was sent later is done: this is being done
    return begun


def _upload(running: RunningDaemon, place: Place) -> Conversation:
    path = f"{place.url}/files?path=/workspace/in/half"
    begun = Conversation(running, "PUT", path, bytes(1 << 20), kind=BYTES, length=2 << 20)
    place.run("true")
    return begun


def _download(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "GET", f"{place.url}/files?path=/workspace/packed/big")
    begun.until(bytes(65536))
    return begun


def _pack(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "GET", f"{place.url}/files/archive?path=/workspace/packed")
    begun.until(bytes(65536))
    return begun


def _unpack(running: RunningDaemon, place: Place) -> Conversation:
    place.run("mkdir unpacked")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("unfinished")
        member.size = 2 << 20
        archive.addfile(member, io.BytesIO(bytes(member.size)))
    content = packed.getvalue()
    path = f"{place.url}/files/archive?path=/workspace/unpacked"
    begun = Conversation(running, "PUT", path, content[: 1 << 20], kind=BYTES, length=len(content))
    place.run("true")
    return begun


def _watch(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "GET", f"{place.url}/files/watch?path=/workspace/packed")
    begun.until(b"start")
    return begun


def _watch_socket(running: RunningDaemon, place: Place) -> Terminal:
    begun = Terminal(running, f"{place.url}/files/watch/ws?path=/workspace/packed", None)
    begun.until(b"start")
    return begun


def _call(running: RunningDaemon, place: Place) -> Conversation:
    tool = {"name": "bash", "args": {"command": "echo > called; exec sleep 1000"}}
    body = json.dumps({"sandbox_id": place.id, "tool": tool}).encode()
    begun = Conversation(running, "POST", "/v1/sandbox/execute", body)
    until(lambda: place.run("cat called")[0] != b"")
    return begun


def _code(running: RunningDaemon, place: Place) -> Conversation:
    body = json.dumps(CODE).encode()
    begun = Conversation(running, "POST", f"{place.url}/code/run", body, accept=NDJSON)
    begun.until(b"stdout")
    return begun


def _code_waits(running: RunningDaemon, place: Place) -> Terminal:
    begun = Terminal(running, f"{place.url}/code/run/ws", CODE)
    place.run("true")
    return begun


def _port(running: RunningDaemon, place: Place) -> Conversation:
    begun = Conversation(running, "GET", f"{place.url}/ports/{_number(place)}/")
    begun.until(b"half")
    return begun


def _tunnel(running: RunningDaemon, place: Place) -> Terminal:
    begun = Terminal(running, f"{place.url}/tunnels/{_number(place)}", b"?")
    begun.until(b"half")
    return begun


def _number(place: Place) -> int:
    return int(place.run("cat port")[0])


OPERATIONS: dict[str, Callable[[RunningDaemon, Place], Conversation | Terminal]] = {
    "process, detached": _detached,
    "process, bound": _bound,
    "terminal": _terminal,
    "attach": _attached,
    "stdin": _stdin,
    "wait": _wait,
    "upload": _upload,
    "download": _download,
    "pack": _pack,
    "unpack": _unpack,
    "watch": _watch,
    "watch (WebSocket)": _watch_socket,
    "call": _call,
    "code": _code,
    "code that waits (WebSocket)": _code_waits,
    "port": _port,
    "tunnel": _tunnel,
}


def until(reached: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, reached
        time.sleep(0.02)
