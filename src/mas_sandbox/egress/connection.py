"""One connection of a sandbox's, from its client's first byte to its end.

The order is the point: read, decide, resolve, vet, write down, dial, look at what the
client really says, relay. What is decided on is the object that is dialled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from . import first_bytes, socks, tls
from .account import Account, Layer
from .client import ByteStream, Client, promptly
from .decision import MAX_METHOD, MAX_PATH, Decision
from .dial import Connect, dial
from .first_bytes import HTTP_PORT, HTTPS_PORT, Begins
from .host import Address, Host
from .http_reply import ESTABLISHED, refusal_reply
from .refusal import Outcome, Refused
from .relay import down, relay, together, up
from .request_path import canonical_path
from .resolve import Lookups
from .upstream import Upstream

if TYPE_CHECKING:
    from .http_request import HttpRequest

DIAL_ALL_S = 15.0
_UNREAD = Host("")

Record = Callable[[Decision], Awaitable[None]]


class Connection:
    """Use `run` once."""

    def __init__(
        self,
        stream: ByteStream,
        account: Account,
        lookups: Lookups,
        connect: Connect,
        record: Record,
    ) -> None:
        self._client = Client(stream)
        self._account = account
        self._lookups = lookups
        self._connect = connect
        self._record = record
        self._protocol = ""
        self._host = _UNREAD
        self._port = 0
        self._request: HttpRequest | None = None
        self._address: Address | None = None
        self._refusal_bytes: Callable[[Refused], bytes] | None = refusal_reply
        """How a refusal is told now; None where the stream can only be reset."""
        self._cut: Refused | None = None

    async def run(self) -> None:
        """Return when it is over. Raises what `record` raises, SandboxError for its OSError."""
        try:
            await self._run()
        except Refused as refusal:
            await self._refuse(refusal)
        except EOFError:
            return  # the client left before it had said what it wants
        except OSError:
            self._client.stream.reset()
            if self._cut is not None:
                await self._write_down(self._decision(self._cut))

    def judge(self, layer: Layer) -> str:
        """The rule by which `layer` allows it, as far as it is known what is asked for.

        Raises Refused.
        """
        rule = layer.reach.target(self._host, self._port)
        if self._address is not None:
            layer.reach.address(self._host, self._address)
        if self._request is not None and layer.reach.judges_paths:
            path, _ = canonical_path(self._request.path)
            rule = layer.reach.request(self._host, self._request.method, path)
        return rule

    def cut(self, refusal: Refused) -> None:
        """End it at once; `run` writes down why."""
        if self._cut is None:
            self._cut = refusal
            self._client.stream.reset()

    async def _run(self) -> None:
        async with promptly():
            await self._read_head()
        with self._account.opened(self):
            self._judge_all()
            self._account.refuse_exhausted()
            upstream = await self._dial(await self._lookups.addresses(self._host))
            clean = False
            try:
                async with upstream.idle:
                    await self._carry(upstream)
                clean = True
            finally:
                upstream.close(abort=not clean)

    async def _read_head(self) -> None:
        client = self._client
        if not await client.more():
            raise EOFError
        if client.ahead[0] == socks.VERSION:
            self._protocol = "socks5"
            self._refusal_bytes = lambda refusal: socks.reply(refusal.outcome)
            self._host, self._port = await socks.read_request(client)
            return
        from .http_request import read_proxy_request  # h11 is for those who use the network

        request = await read_proxy_request(client)
        self._host, self._port = request.host, request.port
        self._protocol = "connect" if request.method == "CONNECT" else "http"
        if self._protocol == "http":
            self._request = request

    def _judge_all(self) -> str:
        """The sandbox's own rule, where every layer allows it. Raises Refused."""
        sandbox, *_ = [self.judge(layer) for layer in self._account.layers]
        return sandbox

    async def _allow(self) -> None:
        """Decide, and write down that it is about to be done. Raises Refused."""
        rule = self._judge_all()
        await self._write_down(self._decision(None, rule))
        self._refuse_cut()

    def _refuse_cut(self) -> None:
        if self._cut is not None:
            raise self._cut

    async def _dial(self, addresses: list[Address]) -> Upstream:
        """To the first of the vetted addresses that answers. Raises Refused."""
        failure: Refused | None = None
        end = asyncio.get_running_loop().time() + DIAL_ALL_S
        for address in addresses:
            self._address = address
            try:
                await self._allow()
                connection = await dial(self._connect, address, self._port)
                return await Upstream.over(connection, self._account)
            except Refused as refusal:
                # Of a mixed answer, that nobody answered says more than what was not tried.
                if failure is None or failure.outcome is Outcome.DENIED:
                    failure = refusal
            self._refuse_cut()
            if asyncio.get_running_loop().time() > end:
                break
        assert failure is not None, "a host has at least one address"
        raise failure

    async def _carry(self, upstream: Upstream) -> None:
        self._refuse_cut()
        self._account.connections += 1
        if self._request is not None:
            await self._exchange(self._request, upstream)
            return
        accepted = socks.reply(None) if self._protocol == "socks5" else ESTABLISHED
        self._refusal_bytes = None
        await self._client.stream.write(accepted)
        await self._tunnel(upstream)

    async def _tunnel(self, upstream: Upstream) -> None:
        """Nothing of the client's passes before it is clear what it is."""
        client = self._client
        if self._port in (HTTP_PORT, HTTPS_PORT):
            begins = await self._begins()
            if begins is Begins.HTTP:
                await self._tunnelled(upstream)
            elif begins is not None:
                await relay(client, upstream)
            return
        async with together() as group:
            answers = group.create_task(down(upstream, client))
            if await self._begins() is not Begins.HTTP:
                await up(client, upstream)
                return
            answers.cancel()
            await asyncio.wait([answers])
        if upstream.received:
            raise Refused(Outcome.DENIED, "tunnel", "a server of HTTP does not speak first")
        await self._tunnelled(upstream)

    async def _begins(self) -> Begins | None:
        begins = await first_bytes.begins(self._client, self._port)
        if begins is Begins.TLS:
            self._refusal_bytes = lambda _: tls.ACCESS_DENIED
            await tls.check_server_name(self._client, self._host)
            self._refusal_bytes = None
        return begins

    async def _tunnelled(self, upstream: Upstream) -> None:
        """One request of plain HTTP inside a tunnel, treated as one to the proxy is."""
        from .http_request import read_tunnelled_request

        self._refusal_bytes = refusal_reply
        async with promptly():
            self._request = await read_tunnelled_request(self._client, self._host, self._port)
        self._protocol = "http"
        await self._allow()
        await self._exchange(self._request, upstream)

    async def _exchange(self, request: HttpRequest, upstream: Upstream) -> None:
        from .http_forward import Exchange

        path = request.path
        if any(layer.reach.judges_paths for layer in self._account.layers):
            _, path = canonical_path(path)
        exchange = Exchange(request, path, self._client, upstream)
        try:
            await exchange.run()
        except Refused:
            if exchange.answered:
                self._refusal_bytes = None
            raise

    async def _refuse(self, refusal: Refused) -> None:
        """Write it down, then tell the client."""
        await self._write_down(self._decision(refusal))
        if self._cut is not None or self._refusal_bytes is None:
            self._client.stream.reset()
            return
        try:
            await self._client.stream.write(self._refusal_bytes(refusal))
        except OSError:
            return  # it has gone; there is nobody to tell

    async def _write_down(self, decision: Decision) -> None:
        try:
            await self._record(decision)
        except OSError as error:  # not one of the network's
            raise SandboxError(
                ErrorCode.INTERNAL, "a decision cannot be written down; see to the audit log"
            ) from error

    def _decision(self, refusal: Refused | None, rule: str = "") -> Decision:
        request = self._request
        return Decision(
            protocol=self._protocol,
            host=self._host.text,
            port=self._port,
            method="" if request is None else request.method[:MAX_METHOD],
            path="" if request is None else request.path[:MAX_PATH],
            address="" if refusal is not None or self._address is None else str(self._address),
            allowed=refusal is None,
            rule=rule if refusal is None else refusal.rule,
            reason="" if refusal is None else refusal.reason,
        )
