"""The way out as the workload and the host see it, through a real toolrunner process."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from doubles.host import Host, Opened, ToolrunnerEnded, start_toolrunner
from mas_sandbox.guest.relays import MAX_RELAYS
from mas_sandbox.wire.credit import INITIAL
from mas_sandbox.wire.frames import CHUNK, GUEST_STREAM, Kind, encode
from mas_sandbox.wire.messages import Call

RESETTING = struct.pack("ii", 1, 0)


@pytest.fixture
def host(workspace: Path) -> Iterator[Host]:
    with Host(workspace, "-proxy", "0") as started:
        yield started


def port_of(host: Host) -> int:
    return int(host.bash("echo ${http_proxy##*:}").stdout)


def connect(host: Host) -> tuple[socket.socket, Opened]:
    """A connection of the workload's, and the stream that it became."""
    count = len(host.opened)
    client = socket.create_connection(("127.0.0.1", port_of(host)), 20)
    host.until(lambda: len(host.opened) > count)
    return client, host.opened[-1]


def fill(host: Host, stream: Opened) -> int:
    """Send until nothing more is taken; how much it was. The sockets' buffers take some of it."""
    sent = 0
    while True:
        host.take_for(0.2)
        room = stream.credit.available
        if not room:
            return sent
        stream.send(bytes(room))
        sent += room


def read_all(client: socket.socket) -> bytes:
    return b"".join(iter(lambda: client.recv(65536), b""))


def descriptors(host: Host) -> int:
    return len(os.listdir(f"/proc/{host.process.pid}/fd"))


def broken_by(host: Host, frame: bytes) -> str:
    host.socket.sendall(frame)
    with pytest.raises(ToolrunnerEnded):
        host.until(lambda: False)
    status, stderr = host.exit_status()
    assert status == 70
    return stderr


def test_a_connection_is_a_stream_of_the_service_egress(host: Host) -> None:
    client, stream = connect(host)
    assert stream.service == "egress"
    assert stream.number > GUEST_STREAM
    client.sendall(b"\x05\x01\x00 anything at all")
    host.until(lambda: stream.received == b"\x05\x01\x00 anything at all")
    stream.send(b"an answer")
    assert client.recv(100) == b"an answer"
    client.close()
    host.until(lambda: stream.ended)


def test_each_direction_ends_by_itself(host: Host) -> None:
    client, stream = connect(host)
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    host.until(lambda: stream.ended)
    assert stream.received == b"question"
    stream.send(b"answer")
    stream.end()
    assert read_all(client) == b"answer"

    client, stream = connect(host)
    stream.send(b"welcome")
    stream.end()
    assert read_all(client) == b"welcome"
    client.sendall(b"thanks")
    client.close()
    host.until(lambda: stream.ended)
    assert stream.received == b"thanks"


def test_megabytes_both_ways_arrive_whole_and_in_order(host: Host) -> None:
    there, back = os.urandom(3_000_000), os.urandom(3_000_000)
    code = (
        "import socket,sys,threading,hashlib\n"
        "s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "data = sys.stdin.buffer.read()\n"
        "threading.Thread(target=lambda: (s.sendall(data), s.shutdown(1))).start()\n"
        "sys.stdout.buffer.write(b''.join(iter(lambda: s.recv(65536), b'')))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(port_of(host))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as client:
        assert client.stdin is not None and client.stdout is not None
        client.stdin.write(there)
        client.stdin.close()
        host.until(lambda: host.opened)
        stream = host.opened[0]
        os.set_blocking(client.stdout.fileno(), False)
        answered = b""
        pending = back
        while not (stream.ended and not pending):
            room = min(stream.credit.available, len(pending), CHUNK)
            if room:
                stream.credit.spend(room)
                host.send(Kind.DATA, stream.number, pending[:room])
                pending = pending[room:]
            host.take_for(0.001)
        stream.end()
        os.set_blocking(client.stdout.fileno(), True)
        answered += client.stdout.read()
    assert stream.received == there
    assert answered == back


def test_a_reset_by_the_host_resets_the_connection_and_is_answered_once(host: Host) -> None:
    client, stream = connect(host)
    stream.reset()
    host.until(lambda: stream.resets == 1)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    host.send(Kind.CREDIT, stream.number, struct.pack("!I", 1))  # crossed the answer
    host.send(Kind.DATA, stream.number, b"late")
    assert host.bash("echo on").stdout == b"on\n"
    assert stream.resets == 1


def test_a_reset_by_the_workload_resets_the_stream(host: Host) -> None:
    client, stream = connect(host)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
    client.close()
    host.until(lambda: stream.over)
    assert not stream.ended
    # What was on its way is dropped, and the answer is not answered again.
    assert host.bash("echo on").stdout == b"on\n"
    assert stream.resets == 1


def test_data_that_crosses_the_workloads_reset_is_dropped(host: Host) -> None:
    client, stream = connect(host)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
    client.close()
    time.sleep(0.2)  # its RESET is on its way, unread
    stream.send(bytes(1000))
    stream.end()
    host.until(lambda: stream.over)
    assert host.bash("echo on").stdout == b"on\n"


@pytest.mark.parametrize("learns_of_the_end", ["first", "afterwards"])
def test_what_the_host_has_forgotten_is_not_waited_for(host: Host, learns_of_the_end: str) -> None:
    client, stream = connect(host)
    client.shutdown(socket.SHUT_WR)
    host.until(lambda: stream.ended)
    fill(host, stream)
    if learns_of_the_end == "first":
        stream.end()  # for the host it is over, and much of it is not delivered yet
        assert host.bash("true").result is not None
    before = descriptors(host)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
    client.close()
    if learns_of_the_end == "afterwards":
        stream.end()  # crosses the RESET
    host.until(lambda: descriptors(host) < before or host.bash("true"))
    for _ in range(MAX_RELAYS):  # there is room for as many as before
        connect(host)


def test_a_reset_after_the_host_has_ended_its_direction_is_answered(host: Host) -> None:
    """`GuestStreams` waits for that answer: without it, its table would fill up."""
    client, stream = connect(host)
    stream.end()
    client.close()
    time.sleep(0.1)
    stream.reset()  # before the end of the workload's direction was read
    host.until(lambda: stream.resets == 1)


def test_without_credit_the_workload_waits_and_nobody_else(host: Host) -> None:
    client, stream = connect(host)
    stream.grants = False
    client.sendall(b"x")  # so that pieces of whole frames do not come out even
    host.until(lambda: stream.received)
    client.setblocking(False)
    sent = 1
    while True:
        if not select.select([], [client], [], 0.3)[1]:
            break
        sent += client.send(bytes(65536))
        host.take_for(0)
    host.until(lambda: len(stream.received) >= INITIAL)
    host.take_for(0.1)
    assert len(stream.received) == INITIAL < sent
    other, second = connect(host)
    other.sendall(b"passes")
    host.until(lambda: second.received == b"passes")
    client.setblocking(True)
    client.shutdown(socket.SHUT_WR)
    stream.grant()
    host.until(lambda: stream.ended)
    assert len(stream.received) == sent


def test_a_workload_that_does_not_read_holds_up_its_own_stream_only(host: Host) -> None:
    client, stream = connect(host)
    before = resident_kb(host)
    sent = fill(host, stream)
    assert resident_kb(host) - before < 2_000
    other, second = connect(host)
    second.send(b"passes")
    assert other.recv(10) == b"passes"
    received = 0
    while received < sent:
        received += len(client.recv(65536))
    host.until(lambda: stream.credit.available > INITIAL // 2)


def resident_kb(host: Host) -> int:
    status = Path(f"/proc/{host.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_a_host_that_does_not_read_makes_the_connections_wait(host: Host) -> None:
    port = port_of(host)
    flood = "import socket,sys\n" + "\n".join(
        [
            "s = [socket.create_connection(('127.0.0.1', int(sys.argv[1]))) for _ in range(40)]",
            "for c in s: c.setblocking(False)",
            "print('up', flush=True)",
            "while True:",
            "    for c in s:",
            "        try: c.send(bytes(65536))",
            "        except BlockingIOError: pass",
        ]
    )
    before = resident_kb(host)
    with subprocess.Popen(
        [sys.executable, "-c", flood, str(port)], stdout=subprocess.PIPE
    ) as client:
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(0.5)
        assert resident_kb(host) - before < 4_000
        client.kill()


def test_floods_of_connections_and_calls_take_turns(host: Host) -> None:
    flood = "import socket,sys\ns = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
    flood += "while True: s.sendall(bytes(65536))"
    port = port_of(host)
    clients = [subprocess.Popen([sys.executable, "-c", flood, str(port)]) for _ in range(3)]
    calls = [host.start_bash("yes", output_bytes=10**9) for _ in range(2)]
    try:
        host.until(lambda: len(host.opened) == 3 and all(call.stdout for call in calls))
        host.until(lambda: all(len(stream.received) > 1_000_000 for stream in host.opened))
        begun = [len(call.stdout) for call in calls]
        host.until(
            lambda: all(
                len(call.stdout) > n + 1_000_000 for call, n in zip(calls, begun, strict=True)
            )
        )
        assert host.call("calculator", {"expression": "1+1"}).value == 2
    finally:
        for client in clients:
            client.kill()
            client.wait()


def test_more_connections_than_there_is_room_for_wait_their_turn(host: Host) -> None:
    port = port_of(host)
    clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(MAX_RELAYS + 20)]
    host.until(lambda: len(host.opened) == MAX_RELAYS)
    host.take_for(0.2)
    assert len(host.opened) == MAX_RELAYS
    for client in clients[:30]:
        client.close()
    host.until(lambda: sum(stream.ended for stream in host.opened) == 30)
    host.take_for(0.1)
    assert len(host.opened) == MAX_RELAYS  # the host has not ended its direction
    for stream in host.opened[:30]:
        stream.end()
    host.until(lambda: len(host.opened) == MAX_RELAYS + 20)
    for client in clients:
        client.close()


def test_a_thousand_connections_leave_no_descriptor_behind(host: Host) -> None:
    port = port_of(host)
    connect(host)[0].close()
    host.take_for(0.05)
    host.opened[0].end()
    host.bash("true")
    before = descriptors(host)
    for turn in range(10):
        clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(100)]
        host.until(lambda turn=turn: len(host.opened) == 101 + turn * 100)
        for number, (client, stream) in enumerate(zip(clients, host.opened[-100:], strict=True)):
            match number % 4:
                case 0:
                    stream.reset()
                case 1:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETTING)
                case 2:
                    stream.end()
            client.close()
            if number % 4 == 3:
                stream.end()
        host.take_for(0.02)
    host.until(lambda: descriptors(host) == before or host.bash("true"))
    assert all(stream.ended or stream.over for stream in host.opened)


def test_out_of_descriptors_a_connection_is_turned_away_and_nothing_spins(
    workspace: Path,
) -> None:
    with Host(workspace, "-proxy", "0") as host:
        port = port_of(host)
        connect(host)[0].close()
        host.take_for(0.05)
        limit = 1 + max(int(name) for name in os.listdir(f"/proc/{host.process.pid}/fd"))
        resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (limit, limit))
        room = limit - descriptors(host)
        clients = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(room + 2)]
        for client in clients[room:]:
            assert client.recv(1) == b""
        host.until(lambda: len(host.opened) == 1 + room)
        host.send(Kind.PING, 0, b"alive")
        host.until(lambda: host.pongs == [b"alive"])


def test_nothing_of_it_is_open_in_a_call(host: Host) -> None:
    connect(host)
    listing = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in range(3, 200) "
    listing += "if os.path.lexists(f'/proc/self/fd/{n}')])"
    assert b"socket:" not in host.call("python", {"code": listing}).stdout
    assert b"socket:" not in host.bash("ls -l /proc/self/fd").stdout


def test_a_connection_outlives_the_call_that_made_another(host: Host) -> None:
    command = "exec 9<>/dev/tcp/127.0.0.1/${http_proxy##*:}; printf hello >&9; head -c 5 <&9"
    call = host.start_bash(command)
    host.until(lambda: host.opened and host.opened[0].received == b"hello")
    host.opened[0].send(b"there")
    assert host.finish(call).stdout == b"there"
    host.until(lambda: host.opened[0].ended)


def test_a_killed_calls_connections_end(host: Host) -> None:
    call = host.start_bash("exec 9<>/dev/tcp/127.0.0.1/${http_proxy##*:}; sleep 600")
    host.until(lambda: host.opened)
    host.cancel(call)
    host.finish(call)
    host.until(lambda: host.opened[0].ended)


def test_connections_end_with_the_channel(workspace: Path) -> None:
    with Host(workspace, "-proxy", "0") as host:
        client, _ = connect(host)
        host.socket.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert host.exit_status() == (0, "")


def test_a_toolrunner_with_idle_connections_sleeps(host: Host) -> None:
    half, stream = connect(host)
    half.shutdown(socket.SHUT_WR)
    whole, _ = connect(host)
    gone, last = connect(host)
    last.reset()
    host.until(lambda: stream.ended and last.resets)
    stat = Path(f"/proc/{host.process.pid}/stat")
    before = [int(field) for field in stat.read_text().rpartition(")")[2].split()[11:13]]
    time.sleep(0.5)
    after = [int(field) for field in stat.read_text().rpartition(")")[2].split()[11:13]]
    assert sum(after) - sum(before) <= 2
    for client in (half, whole, gone):
        client.close()


CALL = Call("bash", {"command": "true"}).encode()


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (encode(Kind.DATA, GUEST_STREAM + 2, b"x"), "never opened"),
        (encode(Kind.RESET, GUEST_STREAM), "never opened"),
        (encode(Kind.CREDIT, 0xFFFFFFFF, b"\0\0\0\1"), "never opened"),
        (encode(Kind.DATA, 5, b"x"), "never opened"),
        (encode(Kind.CALL, GUEST_STREAM + 1, CALL), "not the host's"),
        (encode(Kind.DATA, GUEST_STREAM + 1, bytes(INITIAL + 1)), "beyond the stream's credit"),
        (encode(Kind.CREDIT, GUEST_STREAM + 1, b"\0\0\0\1"), "never sent"),
        (encode(Kind.DATA, GUEST_STREAM + 1) * 2, "after the end"),
    ],
    ids=range(8),
)
def test_a_host_that_breaks_the_rules_ends_the_toolrunner(
    host: Host, frame: bytes, complaint: str
) -> None:
    client, stream = connect(host)
    assert stream.number == GUEST_STREAM + 1
    assert complaint in broken_by(host, frame)
    client.close()


def test_no_frame_of_these_streams_is_taken_where_there_is_no_way_out(workspace: Path) -> None:
    with Host(workspace) as host:
        assert "never opened" in broken_by(host, encode(Kind.RESET, GUEST_STREAM + 1))


def test_a_port_that_is_taken_is_a_usage_error(workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for value in (port, "-1", "65536", "http"):
            ended = start_toolrunner(workspace, "-fd", "0", "-proxy", value)
            _, stderr = ended.communicate(timeout=20)
            assert ended.returncode == 64
            assert f"-proxy {value}".encode() in stderr


def test_only_loopback_is_listened_on(host: Host) -> None:
    listening = Path("/proc/net/tcp").read_text().splitlines()
    local = [line.split()[1] for line in listening if line.split()[3] == "0A"]
    assert f"0100007F:{port_of(host):04X}" in local


# The variables


def test_every_call_is_told_of_the_way_out_in_both_spellings(host: Host) -> None:
    printed = host.bash("env").stdout.decode().splitlines()
    environment = dict(line.split("=", 1) for line in printed)
    port = port_of(host)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        assert environment[name] == environment[name.lower()] == f"http://127.0.0.1:{port}"
    assert environment["NO_PROXY"] == environment["no_proxy"] == "localhost,127.0.0.1,::1"


def test_the_hosts_own_proxy_does_not_take_its_place(host: Host) -> None:
    env = {"HTTP_PROXY": "http://proxy.example:8080", "no_proxy": "*"}
    assert host.bash("echo $HTTP_PROXY $no_proxy", env=env).stdout.split() == [
        f"http://127.0.0.1:{port_of(host)}".encode(),
        b"localhost,127.0.0.1,::1",
    ]


def test_without_a_way_out_there_are_no_such_variables(workspace: Path) -> None:
    with Host(workspace) as host:
        assert b"proxy" not in host.bash("env").stdout.lower()
