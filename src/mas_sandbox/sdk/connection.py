"""The connections to one daemon: requests, streams and WebSockets, their failures typed."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from . import http
from .asked import Asked
from .calls import decode
from .errors import InvalidRequest, Overloaded
from .reading import SILENCE_S, Reading, Told

if TYPE_CHECKING:
    import httpx2
    from websockets.sync.client import ClientConnection

    from .calls import Body

Reply = TypeVar("Reply", bound=BaseModel)
Event = TypeVar("Event")


class Connection:
    """A pool of HTTP connections to `url`; safe for several threads. Whatever fails in it
    raises `CallError`."""

    def __init__(
        self,
        url: str | None,
        token: str | None,
        *,
        timeout: float,
        retries: int = 0,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        import httpx2

        self.url = http.daemon_url(url)
        self._retries = retries
        self._headers = http.headers(token)
        self._timeout = httpx2.Timeout(timeout, connect=min(timeout, http.CONNECT_TIMEOUT_S))
        self._failures = (httpx2.HTTPError, httpx2.InvalidURL)
        self._http = httpx2.Client(
            headers=self._headers,
            timeout=self._timeout,
            limits=httpx2.Limits(max_connections=1000, max_keepalive_connections=100),
            trust_env=False,
            transport=transport,
        )

    def ask(self, asked: Asked[Reply], *, waits_s: float = 0.0) -> Reply:
        """The answer to a request. `waits_s`: how long it may take by its nature."""
        response = self._retried(http.outgoing(asked, http.longer(self._timeout, waits_s)))
        return decode(asked.reply, response.content)

    def upload(self, path: str, reply: type[Reply], pieces: Iterable[bytes]) -> Reply:
        """Send a body that is read as it is sent; it is never sent again."""
        upload = http.Outgoing("PUT", path, self._timeout, pieces, http.BYTES_BODY)
        return decode(reply, self._sent(upload).content)

    @contextmanager
    def pieces(self, path: str) -> Iterator[Iterator[bytes]]:
        """The body of an answer, as it arrives."""
        with self._opened(http.Outgoing("GET", path, self._timeout)) as response:
            yield self._read(response)

    @contextmanager
    def events(
        self, method: str, path: str, told: Told[Event], body: Body | None = None
    ) -> Iterator[Iterator[Event]]:
        """The events that an answer tells, as they arrive."""
        timeout = http.silent(self._timeout, SILENCE_S)
        with self._opened(http.listening(method, path, timeout, body)) as response:
            yield self._told(response, told)

    def socket(self, path: str) -> ClientConnection:
        """An open WebSocket."""
        from .sockets import connect

        return connect(self.url, path, self._headers)

    def close(self) -> None:
        self._http.close()

    def _told(self, response: httpx2.Response, told: Told[Event]) -> Iterator[Event]:
        reading = Reading(told)
        for piece in self._read(response):
            yield from reading.feed(piece)
        reading.end()

    def _read(self, response: httpx2.Response) -> Iterator[bytes]:
        try:
            yield from response.iter_bytes()
        except self._failures as exc:
            raise http.error_from(exc, self.url) from exc

    @contextmanager
    def _opened(self, outgoing: http.Outgoing) -> Iterator[httpx2.Response]:
        response = self._retried(outgoing, stream=True)
        try:
            yield response
        finally:
            response.close()

    def _retried(self, outgoing: http.Outgoing, *, stream: bool = False) -> httpx2.Response:
        for attempt in range(self._retries):
            try:
                return self._sent(outgoing, stream=stream)
            except Overloaded as error:
                time.sleep(http.retry_wait(error, attempt))
        return self._sent(outgoing, stream=stream)

    def _sent(self, outgoing: http.Outgoing, *, stream: bool = False) -> httpx2.Response:
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
            response = self._http.send(request, stream=stream)
            if response.status_code != 200:
                response.read()
        except self._failures as exc:
            raise http.error_from(exc, self.url) from exc
        http.check(response)
        return response
