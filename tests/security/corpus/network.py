"""NW: a sandbox that may reach nothing, among decoys that anybody could reach."""

from __future__ import annotations

from doubles.network_world import ADDRESSES, HOST, WORLD

from .ground import Ground, Row
from .world import DECOYS, HOST_6, METADATA, METADATA_6, PORTS, WORLD_6

_TRY = """
def attempt(family, kind, address, data=b'x', protocol=0):
    made = quietly(socket.socket, family, kind, protocol)
    if made is None: return
    with made:
        made.settimeout(0.5)
        try:
            made.connect(address)
            # Where the kernel happens to give it that very port, it is itself that answers
            # (RFC 9293, 3.5).
            if kind == socket.SOCK_STREAM and made.getsockname() == made.getpeername(): return
            made.send(data)
        except OSError: return
        broke(family.name, kind.name, address, protocol)
for host in hosts:
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    for port in ports:
        attempt(family, socket.SOCK_STREAM, (host, port))
        attempt(family, socket.SOCK_DGRAM, (host, port))
"""
_QUERY = "bytes.fromhex('12340100000100000000000006736563726574076578616d706c65000001' '0001')"


async def no_network(ground: Ground) -> None:
    await ground.attempt(
        "NW_01",
        f"hosts, ports = {[*ADDRESSES, WORLD, WORLD_6, *DECOYS]}, {PORTS[:3]}\n{_TRY}"
        "for host in hosts[:3]:\n"
        f"    attempt(socket.AF_INET, socket.SOCK_DGRAM, (host, 53), {_QUERY})\n"
        "    for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):\n"
        "        attempt(socket.AF_INET, kind, (host, 0), bytes([8, 0, 0xf7, 0xff, 0, 0, 0, 0]), 1)\n"
        "    attempt(socket.AF_INET, socket.SOCK_RAW, (host, 0), bytes(40), 255)\n"
        "try: socket.getaddrinfo('secret.example.org', 443); broke('a name was resolved')\n"
        "except OSError: pass\n"
        "devices = [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]\n"
        "if devices != ['lo']: broke(devices)\n",
    )


async def metadata_services(ground: Ground) -> None:
    await ground.attempt(
        "NW_03",
        f"hosts, ports = {[*METADATA, METADATA_6]}, (80, 443)\n{_TRY}"
        "import subprocess\n"
        "for url in ('http://169.254.169.254/latest/meta-data/', 'http://[fd00:ec2::254]/'):\n"
        "    for proxy in ([], ['--noproxy', '*']):\n"
        "        done = quietly(subprocess.run, ['curl', '-sSm5', *proxy, url], capture_output=True)\n"
        "        if done is not None and not done.returncode: broke(url)\n",
    )


async def sockets_of_the_host(ground: Ground) -> None:
    await ground.attempt(
        "NW_14",
        f"for address in ({ground.stage.address!r}, {str(ground.stage.open / 'socket')!r}):\n"
        "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):\n"
        "        with socket.socket(socket.AF_UNIX, kind) as made:\n"
        "            try: made.connect(address); broke(address)\n"
        "            except OSError: pass\n",
    )


async def services_of_the_host(ground: Ground) -> None:
    """What listens on the host's loopback, at its addresses, and beyond its gateway."""
    elsewhere = [HOST, HOST_6, WORLD, "10.77.0.255"]
    loopback = ["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::ffff:127.0.0.1"]
    await ground.attempt(
        "NW_15",
        f"hosts, ports = {elsewhere}, {(*ground.stage.ports, 22, 8080)}\n{_TRY}"
        # It has a loopback of its own, where a datagram is lost and a connection refused.
        f"for host in {loopback}:\n"
        "    family = socket.AF_INET6 if ':' in host else socket.AF_INET\n"
        "    for port in ports: attempt(family, socket.SOCK_STREAM, (host, port))\n",
    )


ROWS = (
    Row("NW_01", "no network", no_network),
    Row("NW_03", "metadata services", metadata_services),
    Row("NW_14", "sockets of the host", sockets_of_the_host),
    Row("NW_15", "services of the host", services_of_the_host),
)
