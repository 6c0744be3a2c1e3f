"""Machines with a network device: each is joined to the host by a link of its own.

On the host a link is a TAP device, two addresses, rules in our tables and a resolver; all
of it goes with the machine, and the tables with the last. What a daemon that was killed
has left is removed by the next one (`reclaim`): its tables carry its token, and so does
the alias of a device that outlived it. Work on the host's network is done under a lock
that all daemons share, in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import TypeVar

from mas_sandbox.egress.resolve import Resolver as LookUp
from mas_sandbox.egress.resolve import system_resolver
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ...ownership import Ownership
from ..config import ID, NetworkConfig
from ..vm import Tap
from . import forwarding, programs, rules
from .addresses import Addresses, Subnet, routed
from .device import GROUP, Device
from .reach import Reach
from .reclaim import clear, exclusive, reclaim, whole
from .resolver import Resolver
from .watch import Watch

Answer = TypeVar("Answer")
_NOWHERE = Reach((IPv4Network("192.0.2.0/32"),), (1,), ())
"""What `prepare` makes a link to: an address for documentation (RFC 5737)."""


@dataclass(eq=False, slots=True)
class Link:
    """One machine's, on the host. `cut`: its rules were removed by someone else."""

    number: int
    table: str
    device: Device
    mac_address: str
    addresses: Addresses
    reach: Reach
    cut: bool = False

    @property
    def tap(self) -> Tap:
        return Tap(self.device.name, self.mac_address, self.device.descriptor)

    @property
    def kernel_words(self) -> str:
        """What tells the image's init of this link."""
        network, gateway = self.addresses.network, self.addresses.gateway
        return f"ip={self.addresses.guest}::{gateway}:{network.netmask} mas.dns={gateway}"


class TapNetwork:
    """All links of one daemon."""

    def __init__(
        self, ownership: Ownership, config: NetworkConfig, look_up: LookUp = system_resolver
    ) -> None:
        self._ownership = ownership
        self._config = config
        self._look_up = look_up
        self._subnet = Subnet(config.subnet)
        self._lock = asyncio.Lock()
        self._links: set[Link] = set()
        self._count = 0
        self._tables = 0
        self._table: str | None = None
        self._raised: set[str] = set()
        self._watch: Watch | None = None
        self._watched = 0
        self._clearing: set[asyncio.Task[None]] = set()

    async def prepare(self) -> None:
        """Remove what dead daemons left. Where the network is enabled, try it: make a link,
        and remove it. Raises SandboxError `sandbox_crash` with the mend."""
        try:
            await asyncio.to_thread(reclaim, self._ownership)
        except (SandboxError, OSError) as error:
            if self._config.enabled:
                raise SandboxError(
                    ErrorCode.SANDBOX_CRASH, f"what a dead daemon left cannot be removed: {error}"
                ) from error
        if self._config.enabled:
            async with self.link(_NOWHERE):
                pass

    @asynccontextmanager
    async def link(
        self, reach: Reach, user: int | None = None, by_name: bool = False
    ) -> AsyncIterator[Link]:
        """A link for one machine, until the context is left.

        `by_name`: the monitor opens the device by its name, as `user`; else it is handed
        the descriptor. Raises SandboxError `sandbox_crash`; nothing is left then.
        """
        with self._watching():
            made = await self._changed(lambda: self._make(reach, user, by_name), self._unmake)
            try:
                if made.table != self._table:
                    raise SandboxError(
                        ErrorCode.SANDBOX_CRASH,
                        "the machine's nftables rules were removed by someone else; try again",
                    )
                async with Resolver(reach, self._look_up) as resolver:
                    await _listening(resolver, made)
                    yield made
            finally:
                await self._changed(lambda: self._unmake(made))

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Be told when our tables are removed, while there are links or one is being made."""
        try:
            self._watch = self._watch or Watch(self._lost)
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"changes of nftables cannot be watched: {error}"
            ) from error
        self._watched += 1
        try:
            yield
        finally:
            self._watched -= 1
            if not self._watched:
                self._watch.close()
                self._watch = None

    async def _changed(
        self, change: Callable[[], Answer], undo: Callable[[Answer], None] | None = None
    ) -> Answer:
        """Change the host's network. Nothing is left half done when we are cancelled."""

        async def work() -> Answer:
            async with self._lock:
                return await asyncio.to_thread(self._alone, change)

        task = asyncio.ensure_future(work())
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if undo is not None and task.exception() is None:
                await self._changed(lambda: undo(task.result()))
            raise

    def _alone(self, change: Callable[[], Answer]) -> Answer:
        try:
            with exclusive(self._ownership.directory):
                return change()
        except OSError as error:
            raise SandboxError(
                ErrorCode.SANDBOX_CRASH, f"the host's network cannot be set up: {error}"
            ) from error

    def _make(self, reach: Reach, user: int | None, by_name: bool) -> Link:
        self._count += 1
        number = self._count
        with ExitStack() as undo:
            undo.callback(self._remove_tables_unless_used)
            table = self._create_tables()
            routes = programs.routes()
            addresses = self._subnet.take(routed(routes))
            device = Device(self._device_name(number))
            undo.callback(device.remove)
            link = Link(number, table, device, self._mac(number, addresses), addresses, reach)
            name, mac, gateway = device.name, link.mac_address, addresses.gateway
            programs.nft(rules.admit(table, number, name, mac, addresses, reach))
            undo.callback(self._dismiss, link)
            missing = forwarding.towards(routes, reach.blocks) - self._raised
            self._raised |= forwarding.turn_on(table, missing) if missing else set()
            programs.ip(
                f"link set dev {name} group {GROUP} alias {self._ownership.name('tap')}",
                f"address add {gateway}/{addresses.network.prefixlen} dev {name}",
                f"link set dev {name} up",
                # The guest is believed nothing about itself, its own address included.
                f"neighbour replace {addresses.guest} lladdr {mac} dev {name} nud permanent",
            )
            if by_name:
                device.hand_over(user)
            undo.pop_all()
        self._links.add(link)
        return link

    def _unmake(self, link: Link) -> None:
        if link not in self._links:
            return
        self._links.discard(link)
        link.device.down()
        with ExitStack() as undo:
            undo.callback(self._remove_tables_unless_used)
            undo.callback(link.device.remove)
            undo.callback(self._dismiss, link)

    def _dismiss(self, link: Link) -> None:
        with suppress(SandboxError):  # it went with its table, or goes with it now
            if not link.cut:
                programs.nft(
                    rules.dismiss(
                        link.table, link.number, link.device.name, link.addresses, link.reach
                    )
                )

    def _create_tables(self) -> str:
        if self._table is None:
            self._tables += 1
            table = self._ownership.name(f"tap{self._tables}")
            programs.nft(rules.create(table))
            self._table = table
        return self._table

    def _remove_tables_unless_used(self) -> None:
        table, raised = self._table, self._raised
        if table is None or any(link.table == table for link in self._links):
            return
        self._table, self._raised = None, set()
        clear(table, raised)

    def _lost(self, name: bytes | None) -> None:
        """A table was removed. Without its rules a device must not pass anything."""
        table = self._table
        if table is None or name not in (None, table.encode()) or (name is None and whole(table)):
            return
        for link in list(self._links):
            if link.table == table:
                link.device.down()
                link.cut = True
        raised, self._raised, self._table = self._raised, set(), None
        clearing = asyncio.ensure_future(self._clear_later(table, raised))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)

    async def _clear_later(self, table: str, raised: set[str]) -> None:
        with suppress(SandboxError):  # nobody waits for it, and `reclaim` would find it
            await self._changed(lambda: clear(table, raised))

    def _device_name(self, number: int) -> str:
        """`{id}` is eight characters: of the daemon's token, and the link's number."""
        assert self._config.tap_device is not None, "a config file is refused without it"
        own = f"{self._ownership.token[-4:]}{number & 0xFFFF:04x}"
        return self._config.tap_device.replace(ID, own)

    def _mac(self, number: int, addresses: Addresses) -> str:
        own = ":".join(f"{byte:02x}" for byte in addresses.guest.packed)
        mac = self._config.mac_address or f"02:00:{own}"
        return mac.replace(ID, f"{number & 0xFF:02x}").lower()


async def _listening(resolver: Resolver, link: Link) -> None:
    try:
        await resolver.listen(link.addresses.gateway, link.device.name)
    except OSError as error:
        raise SandboxError(
            ErrorCode.SANDBOX_CRASH, f"the machine's resolver cannot be started: {error}"
        ) from error
