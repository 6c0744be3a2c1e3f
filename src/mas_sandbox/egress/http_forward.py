"""One request of plain HTTP, sent on and answered; then the connection ends.

Both heads are written anew from what was parsed, so that no spelling of theirs reaches
the other side (RFC 9110 section 7.6, RFC 9112 section 9.6).
"""

from __future__ import annotations

import h11

from .client import Client
from .first_bytes import HTTP_PORT
from .http_request import MAX_HEAD, HttpRequest
from .refusal import Outcome, Refused
from .relay import relay, together
from .upstream import Upstream

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"),
        *(b"proxy-authenticate", b"proxy-authorization", b"proxy-authentication-info"),
    }
)
_KEPT = frozenset({b"content-length", b"transfer-encoding"})
"""What `Connection` may not name away."""
_CLOSE = [(b"Connection", b"close")]
_WEBSOCKET = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]

_SWITCHING_PROTOCOLS = 101

Message = h11.Request | h11.InformationalResponse | h11.Response
Headers = list[tuple[bytes, bytes]]


class Exchange:
    """`path`: what is asked for there, as it was judged."""

    def __init__(self, request: HttpRequest, path: str, client: Client, upstream: Upstream) -> None:
        self._request = request
        self._path = path
        self._client = client
        self._upstream = upstream
        self._here = request.connection
        self._there = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._websocket = _asks_for_websocket(request.event)
        self.answered = False
        """Whether the client has a part of the answer, so that no other can be given."""

    async def run(self) -> None:
        """Raises OSError, and Refused where there is no answer."""
        await self._send_there(self._outgoing())
        async with together() as group:
            body = group.create_task(self._send_body())
            switched = await self._return_answer()
            if not switched:
                body.cancel()  # an answer may come before the whole request
        if switched:
            self._client.ahead = self._here.trailing_data[0]
            await self._client.stream.write(self._there.trailing_data[0])
            await relay(self._client, self._upstream)

    def _outgoing(self) -> h11.Request:
        request = self._request
        authority = request.host.at(request.port).removesuffix(f":{HTTP_PORT}")
        return h11.Request(
            method=request.method,
            target=self._path + request.query,
            headers=[
                (b"Host", authority.encode("ascii")),
                *_end_to_end(request.event, b"host"),
                *(_WEBSOCKET if self._websocket else _CLOSE),
            ],
        )

    async def _send_body(self) -> None:
        while True:
            try:
                event = self._here.next_event()
            except h11.RemoteProtocolError as error:
                raise ConnectionResetError("the client's request ended early") from error
            if event is h11.NEED_DATA:
                self._here.receive_data(await self._client.take())
            elif isinstance(event, h11.Data):
                await self._send_there(h11.Data(data=bytes(event.data)))
            else:
                await self._send_there(h11.EndOfMessage())
                return

    async def _return_answer(self) -> bool:
        """Whether the protocol was switched, or else the whole answer was given."""
        while True:
            event = self._next_from_there()
            if event is h11.NEED_DATA:
                self._there.receive_data(await self._read_there())
            elif isinstance(event, h11.InformationalResponse):
                switched = event.status_code == _SWITCHING_PROTOCOLS
                if switched or self._here.their_http_version == b"1.1":
                    headers = _end_to_end(event) + (_WEBSOCKET if switched else [])
                    status = event.status_code
                    await self._send_here(
                        h11.InformationalResponse(
                            status_code=status, headers=headers, reason=event.reason
                        )
                    )
                if switched:
                    return True
            elif isinstance(event, h11.Response):
                headers = _end_to_end(event) + _CLOSE
                await self._send_here(
                    h11.Response(
                        status_code=event.status_code, headers=headers, reason=event.reason
                    )
                )
            elif isinstance(event, h11.Data):
                await self._send_here(h11.Data(data=bytes(event.data)))
            else:
                await self._send_here(h11.EndOfMessage())
                return False

    async def _read_there(self) -> bytes:
        try:
            return await self._upstream.read()
        except ConnectionError as error:
            raise Refused(
                Outcome.UNREACHABLE, "upstream", "the server broke the connection off"
            ) from error

    def _next_from_there(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._there.next_event()
        except h11.RemoteProtocolError as error:
            raise Refused(
                Outcome.UNREACHABLE, "upstream", "the server's answer is not well-formed HTTP/1"
            ) from error

    async def _send_there(self, event: h11.Event) -> None:
        try:
            await self._upstream.write(self._there.send(event) or b"")
        except ConnectionError:
            return  # the answer, if there is one, says why

    async def _send_here(self, event: h11.Event) -> None:
        self.answered = True
        await self._client.stream.write(self._here.send(event) or b"")


def _asks_for_websocket(request: h11.Request) -> bool:
    upgrade = [value.lower() for name, value in request.headers if name == b"upgrade"]
    return upgrade == [b"websocket"] and b"upgrade" in _named_by_connection(request)


def _end_to_end(message: Message, *more: bytes) -> Headers:
    """The headers but for those that concern one connection only, and `more`."""
    dropped = _HOP_BY_HOP | (_named_by_connection(message) - _KEPT) | set(more)
    return [(n, value) for n, value in message.headers.raw_items() if n.lower() not in dropped]


def _named_by_connection(message: Message) -> set[bytes]:
    values = [value for name, value in message.headers if name == b"connection"]
    return {token.strip().lower() for value in values for token in value.split(b",")}
