"""`Connection` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from . import http
from .asked import Asked
from .calls import decode
from .errors import InvalidRequest, Overloaded
from .reading import SILENCE_S, Reading, Told

if TYPE_CHECKING:
    import httpx2
    from websockets.asyncio.client import ClientConnection

    from .calls import Body

Reply = TypeVar("Reply", bound=BaseModel)
Event = TypeVar("Event")


class AsyncConnection:
    """A pool of HTTP connections to `url`; safe for several tasks. Whatever fails in it
    raises `CallError`."""

    def __init__(
        self,
        url: str | None,
        token: str | None,
        *,
        timeout: float,
        retries: int = 0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        import httpx2

        self.url = http.daemon_url(url)
        self._retries = retries
        self._headers = http.headers(token)
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, http.CONNECT_TIMEOUT_S))
        self._failures = (httpx2.HTTPError, httpx2.InvalidURL)
        self._http = httpx2.AsyncClient(
            headers=self._headers,
            timeout=self._timeout,
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            trust_env=False,
            transport=transport,
        )

    async def ask(self, asked: Asked[Reply], *, waits_s: float = 0.0) -> Reply:
        """The answer to a request. `waits_s`: how long it may take by its nature."""
        response = await self._retried(http.outgoing(asked, http.longer(self._timeout, waits_s)))
        return decode(asked.reply, response.content)

    async def upload(self, path: str, reply: type[Reply], pieces: AsyncIterable[bytes]) -> Reply:
        """Send a body that is read as it is sent; it is never sent again."""
        upload = http.Outgoing("PUT", path, self._timeout, pieces, http.BYTES_BODY)
        return decode(reply, (await self._sent(upload)).content)

    @asynccontextmanager
    async def pieces(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an answer, as it arrives."""
        async with self._opened(http.Outgoing("GET", path, self._timeout)) as response:
            yield self._read(response)

    @asynccontextmanager
    async def events(
        self, method: str, path: str, told: Told[Event], body: Body | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """The events that an answer tells, as they arrive."""
        timeout = http.silent(self._timeout, SILENCE_S)
        async with self._opened(http.listening(method, path, timeout, body)) as response:
            yield self._told(response, told)

    async def socket(self, path: str) -> ClientConnection:
        """An open WebSocket."""
        from .sockets import connect_async

        return await connect_async(self.url, path, self._headers)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _told(self, response: httpx2.Response, told: Told[Event]) -> AsyncIterator[Event]:
        reading = Reading(told)
        async for piece in self._read(response):
            for event in reading.feed(piece):
                yield event
        reading.end()

    async def _read(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        try:
            async for piece in response.aiter_bytes():
                yield piece
        except self._failures as exc:
            raise http.error_from(exc, self.url) from exc

    @asynccontextmanager
    async def _opened(self, outgoing: http.Outgoing) -> AsyncIterator[httpx2.Response]:
        response = await self._retried(outgoing, stream=True)
        try:
            yield response
        finally:
            await response.aclose()

    async def _retried(self, outgoing: http.Outgoing, *, stream: bool = False) -> httpx2.Response:
        for attempt in range(self._retries):
            try:
                return await self._sent(outgoing, stream=stream)
            except Overloaded as error:
                await asyncio.sleep(http.retry_wait(error, attempt))
        return await self._sent(outgoing, stream=stream)

    async def _sent(self, outgoing: http.Outgoing, *, stream: bool = False) -> httpx2.Response:
        """An answer of status 200, read to its end unless it is to be a stream."""
        if self._http.is_closed:
            raise InvalidRequest("this client is closed; make another")
        try:
            request = self._http.build_request(
                outgoing.method,
                self.url + outgoing.path,
                content=outgoing.content,
                headers=outgoing.headers,
                timeout=outgoing.timeout,
            )
            response = await self._http.send(request, stream=stream)
            if response.status_code != 200:
                await response.aread()
        except self._failures as exc:
            raise http.error_from(exc, self.url) from exc
        http.check(response)
        return response
