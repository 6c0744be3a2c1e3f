"""What is left on a host after machines with network devices, however their daemons end."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from doubles.network_world import ALLOWED, NetworkWorld, run, state
from doubles.raw_guest import RawGuest
from mas_sandbox.policy.grants import NetworkPolicy
from mas_sandbox.runtimes.microvm.config import NetworkConfig
from mas_sandbox.runtimes.microvm.tap.network import TapNetwork
from mas_sandbox.runtimes.microvm.tap.reach import Reach, common_reach
from mas_sandbox.runtimes.microvm.tap.reclaim import reclaim
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.wire.errors import SandboxError

pytestmark = pytest.mark.anyio

CONFIG = NetworkConfig(True, "mas{id}", None, ("203.0.113.0/24",))
FORWARDING = Path("/proc/sys/net/ipv4/conf/up0/forwarding")
USER = 1_900_000_123
_DAEMON = """
import asyncio, sys
from pathlib import Path
from mas_sandbox.runtimes.microvm.config import NetworkConfig
from mas_sandbox.runtimes.microvm.tap.network import TapNetwork
from mas_sandbox.runtimes.microvm.tap.reach import common_reach
from mas_sandbox.runtimes.ownership import Ownership
from mas_sandbox.policy.grants import NetworkPolicy

async def main():
    config = NetworkConfig(True, "mas{id}", None, ("203.0.113.0/24",))
    network = TapNetwork(Ownership(Path(sys.argv[1])), config)
    reach = common_reach(config, NetworkPolicy(cidrs=("203.0.113.0/24",)))
    async with network.link(reach), network.link(reach, 1_900_000_123, by_name=True) as link:
        print(link.device.name, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def world() -> Iterator[NetworkWorld]:
    with NetworkWorld() as made:
        yield made


def reach() -> Reach:
    common = common_reach(CONFIG, NetworkPolicy(cidrs=("203.0.113.0/24",)))
    assert common is not None
    return common


@pytest.mark.parametrize("config", [CONFIG, NetworkConfig()], ids=["network", "none"])
async def test_the_next_daemon_removes_what_a_killed_one_left(
    world: NetworkWorld, tmp_path: Path, config: NetworkConfig
) -> None:
    before = state()
    locks = tmp_path / "locks"
    daemon = subprocess.Popen([sys.executable, "-c", _DAEMON, locks], stdout=subprocess.PIPE)
    try:
        assert daemon.stdout is not None
        assert b"mas" in daemon.stdout.readline()
        alive = Ownership(locks)
        reclaim(alive)  # it lives: nothing of it is touched
        assert "leaving_2" in run("nft list ruleset")
        assert run("ip -o link show group 7168371").count("mas-sandbox") == 2
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.communicate()
    left = state()
    assert "mas-sandbox" in left
    assert FORWARDING.read_text() == "1\n"
    assert run("ip -o link show group 7168371") != ""
    await TapNetwork(alive, config).prepare()
    assert state() == before
    alive.close()


async def test_the_uplink_forwards_until_the_last_daemon_needs_it_no_more(
    world: NetworkWorld, tmp_path: Path
) -> None:
    before = state()
    owners = [Ownership(tmp_path / "locks") for _ in range(2)]
    one, two = (TapNetwork(owner, CONFIG) for owner in owners)
    world.listener(ALLOWED, 443)
    async with AsyncExitStack() as later, AsyncExitStack() as sooner:
        await sooner.enter_async_context(one.link(reach()))
        link = await later.enter_async_context(two.link(reach()))
        await sooner.aclose()
        assert FORWARDING.read_text() == "1\n"
        assert RawGuest(link).connect(ALLOWED, 443) == "open"
        async with one.link(reach()):
            pass
        assert FORWARDING.read_text() == "1\n"
    assert FORWARDING.read_text() == "0\n"
    assert state() == before
    for owner in owners:
        owner.close()


async def test_a_machine_that_ends_leaves_nothing_of_it_beside_the_others(
    world: NetworkWorld, tmp_path: Path
) -> None:
    owner = Ownership(tmp_path / "locks")
    network = TapNetwork(owner, CONFIG)
    world.listener(ALLOWED, 443)
    limited = replace(reach(), kb_per_s=100)
    async with network.link(reach()) as stays:
        guest = RawGuest(stays)
        before = state()
        async with network.link(limited) as goes:
            assert goes.device.name in run("nft list ruleset")
        assert state() == before
        assert guest.connect(ALLOWED, 443) == "open"
    owner.close()


async def test_an_uplink_that_forwarded_before_goes_on(world: NetworkWorld, tmp_path: Path) -> None:
    FORWARDING.write_text("1")
    before = state()
    owner = Ownership(tmp_path / "locks")
    async with TapNetwork(owner, CONFIG).link(reach()):
        assert "up0" not in run("nft list sets inet")
    assert FORWARDING.read_text() == "1\n"
    assert state() == before
    owner.close()


async def test_a_device_by_name_opens_for_its_user_alone(
    world: NetworkWorld, tmp_path: Path
) -> None:
    """As Firecracker behind its jailer does: /dev/net/tun, a uid of its own, and the name."""
    owner = Ownership(tmp_path / "locks")
    async with TapNetwork(owner, CONFIG).link(reach(), USER, by_name=True) as link:
        assert link.tap.descriptor is None
        assert _opens(link.device.name, USER)
        assert not _opens(link.device.name, USER + 1)
    assert link.device.name not in run("ip -o link")
    owner.close()


async def test_what_is_there_already_is_left_alone_and_named(
    world: NetworkWorld, tmp_path: Path
) -> None:
    before = state()
    owner = Ownership(tmp_path / "locks")
    fixed = TapNetwork(owner, NetworkConfig(True, "mastap", None, ("203.0.113.0/24",)))
    async with fixed.link(reach()):
        held = state()
        with pytest.raises(SandboxError, match=r"mastap.*put \{id\} into network.tap_device"):
            async with fixed.link(reach()):
                pass
        assert state() == held
    assert state() == before
    run("ip tuntap add dev mastap mode tap")  # of the operator's own, and not in use
    with pytest.raises(SandboxError, match=r"mastap.*it is there already"):
        async with fixed.link(reach()):
            pass
    assert "mastap" in run("ip -o link")
    assert run("nft list ruleset") == ""
    owner.close()


async def test_addresses_that_the_host_routes_already_are_not_taken(
    world: NetworkWorld, tmp_path: Path
) -> None:
    owner = Ownership(tmp_path / "locks")
    small = NetworkConfig(True, "mas{id}", None, ("203.0.113.0/24",), (), "198.18.0.0/29")
    network = TapNetwork(owner, small)
    run("ip route add 198.18.0.4/32 via 10.77.0.2")
    before = state()
    async with network.link(reach()) as link:
        assert str(link.addresses.network) == "198.18.0.0/30"
        with pytest.raises(SandboxError, match=r"network.subnet 198.18.0.0/29 has no address left"):
            async with network.link(reach()):
                pass
    assert state() == before
    owner.close()


async def test_no_root_no_device_and_a_word_why(world: NetworkWorld, tmp_path: Path) -> None:
    before = state()
    script = (
        "import os\n"
        "from mas_sandbox.runtimes.microvm.tap.device import Device\n"
        f"os.setresuid({USER}, {USER}, {USER})\n"
        "Device('mas1')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "the daemon must be root" in done.stderr
    assert state() == before


def _opens(name: str, user: int) -> bool:
    child = os.fork()
    if child == 0:
        try:
            opened = os.open("/dev/net/tun", os.O_RDWR)
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            fcntl.ioctl(opened, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x5002))
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
