"""A WebSocket to a server inside: messages both ways, each direction at the pace of its reader.

The handshake and the frames on the server's side are the sans-I/O protocol's of `websockets`.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import Message, Receive, Scope, Send
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidState, InvalidStatus, ProtocolError
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..live.ports import BadGateway, Connection, Ports
from .ports_headers import to_client, to_server
from .ports_visit import Visit
from .problems import problem_of

MAX_MESSAGE = 1024 * 1024
"""Bytes of one message of a server's; a client's are bounded by the front door."""
HANDSHAKE_S = 60.0
CLOSE_S = 5.0
BAD_GATEWAY = 1014
_UNREAD = 64
"""Frames that wait for a server to read, answers to its pings above all."""
_DONE, _GOING_AWAY, _NO_STATUS = 1000, 1001, 1005
"""Close codes (RFC 6455 section 7.4.1 and its registry)."""


async def converse(ports: Ports, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
    """Pass messages on until either end closes."""
    target, socket = visit.target, None
    try:
        async with ports.connection(visit.caller, target.sandbox_id, target.port) as connection:
            socket = _Socket(visit, connection, scope, receive, send)
            await socket.run()
    except SandboxError as error:
        if socket is None or not socket.accepted:
            await problem_of(error)(scope, receive, send)
        else:
            await socket.tell(closing(BAD_GATEWAY, error.message))


def closing(code: int, reason: str) -> Message:
    """A close message, whose reason has at most 123 bytes (RFC 6455 section 5.5)."""
    text = reason.encode()[:123].decode(errors="ignore")
    return {"type": "websocket.close", "code": code, "reason": text}


class _Socket:
    def __init__(
        self, visit: Visit, connection: Connection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.accepted = False
        self.client_gone = False
        self._visit = visit
        self._connection = connection
        self._scope = scope
        self._receive = receive
        self._send = send
        self._writing = asyncio.Lock()
        self._aside: asyncio.Task[None] | None = None
        query = visit.query.decode("latin-1")
        path = visit.target.path.decode("latin-1") or "/"
        self._server = ClientProtocol(
            WebSocketURI(False, "localhost", visit.target.port, path, query),
            subprotocols=[Subprotocol(each) for each in scope["subprotocols"]] or None,
            max_size=MAX_MESSAGE,
        )

    async def run(self) -> None:
        """Raises SandboxError."""
        try:
            async with asyncio.timeout(HANDSHAKE_S):
                frames = await self._shake_hands()
        except TimeoutError as error:
            raise SandboxError(
                ErrorCode.TIMEOUT, f"the server did not answer within {HANDSHAKE_S:g} s"
            ) from error
        if frames is None:
            return
        down = asyncio.create_task(self._to_client(frames))
        up = asyncio.create_task(self._to_server())
        try:
            await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
            if not down.done():
                up.result()
                # The server may answer the close; what else it still says is for nobody.
                await asyncio.wait((down,), timeout=CLOSE_S)
            elif self._aside is not None:
                await asyncio.wait((self._aside,), timeout=CLOSE_S)
        finally:
            tasks = [task for task in (down, up, self._aside) if task is not None]
            for task in tasks:
                task.cancel()
            told, *_ = await asyncio.gather(*tasks, return_exceptions=True)
        if isinstance(told, Exception) and not self.client_gone:
            raise told

    async def tell(self, message: Message) -> None:
        """Send it to the client, if it is there."""
        if not self.client_gone:
            try:
                await self._send(message)
            except OSError:
                self.client_gone = True

    async def _shake_hands(self) -> list[Frame] | None:
        """The frames that came with the server's answer; None where it is a refusal, which the
        client then has."""
        await self._receive()  # the client's wish to connect
        request = self._server.connect()
        del request.headers["Host"]
        for name, value in to_server(self._scope["headers"], self._visit):
            if not name.startswith(b"sec-websocket-"):
                request.headers[name.decode("latin-1")] = value.decode("latin-1")
        self._server.send_request(request)
        await self._flush()
        while not (events := self._take(await self._connection.read())):
            self._refuse_nonsense()
        answer, *frames = events
        assert isinstance(answer, Response)
        refused = self._server.handshake_exc
        if isinstance(refused, InvalidStatus):
            await self._deny(answer)
            return None
        self._refuse_nonsense()
        await self._send(
            {
                "type": "websocket.accept",
                "subprotocol": self._server.subprotocol,
                "headers": self._headers(answer),
            }
        )
        self.accepted = True
        return [frame for frame in frames if isinstance(frame, Frame)]

    def _refuse_nonsense(self) -> None:
        if self._server.handshake_exc is not None:
            raise BadGateway(f"the server speaks no WebSocket here: {self._server.handshake_exc}")

    def _headers(self, answer: Response) -> list[tuple[bytes, bytes]]:
        given = [
            (name.encode("latin-1"), value.encode("latin-1", "replace"))
            for name, value in answer.headers.raw_items()
        ]
        passed_on = to_client(given, self._visit)
        return [pair for pair in passed_on if not pair[0].startswith(b"sec-websocket-")]

    async def _deny(self, answer: Response) -> None:
        """The server's own refusal."""
        headers = [each for each in self._headers(answer) if each[0] != b"content-length"]
        status = answer.status_code
        await self._send(
            {"type": "websocket.http.response.start", "status": status, "headers": headers}
        )
        body = bytes(answer.body or b"")
        await self._send({"type": "websocket.http.response.body", "body": body})

    async def _to_client(self, frames: list[Frame]) -> None:
        """Until the server closes. Raises SandboxError."""
        message, kind = bytearray(), Opcode.BINARY
        while True:
            for frame in frames:
                if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
                    message, kind = bytearray(), frame.opcode
                elif frame.opcode is not Opcode.CONT:
                    continue  # pings are answered, and a close is noticed below
                message += frame.data
                if frame.fin:
                    await self._deliver(bytes(message), kind)
                    message = bytearray()
            if self._server.state is not State.OPEN:
                break
            if len(self._server.writes) > _UNREAD:
                await self._flush()
            elif self._server.writes:
                self._flush_aside()
            data = await self._connection.read()
            frames = [event for event in self._take(data) if isinstance(event, Frame)]
        self._flush_aside()
        closed, broken = self._server.close_rcvd, self._server.parser_exc
        if closed is None or broken is not None:
            why = f": {broken}" if broken is not None else ""
            raise BadGateway(f"the server broke the WebSocket off{why}")
        await self.tell(closing(_DONE if closed.code == _NO_STATUS else closed.code, closed.reason))

    async def _deliver(self, data: bytes, kind: Opcode) -> None:
        if kind is Opcode.BINARY:
            await self.tell({"type": "websocket.send", "bytes": data})
            return
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise BadGateway("the server sent a text that is not UTF-8") from error
        await self.tell({"type": "websocket.send", "text": text})

    async def _to_server(self) -> None:
        """Until the client closes. Raises SandboxError."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self.client_gone = True
                with contextlib.suppress(InvalidState):  # the server was the first to close
                    self._close_server(message.get("code", _NO_STATUS), message.get("reason"))
                self._flush_aside()
                return
            text = message.get("text")
            with contextlib.suppress(InvalidState):
                if text is not None:
                    self._server.send_text(text.encode())
                else:
                    self._server.send_binary(message.get("bytes") or b"")
            await self._flush()

    def _close_server(self, code: int, reason: str | None) -> None:
        try:
            if code == _NO_STATUS:
                self._server.send_close()
            else:
                self._server.send_close(code, reason or "")
        except ProtocolError:  # a code that is never sent
            self._server.send_close(_GOING_AWAY)

    def _take(self, data: bytes) -> list[object]:
        if data:
            self._server.receive_data(data)
        else:
            self._server.receive_eof()
        return list(self._server.events_received())

    def _flush_aside(self) -> None:
        """Send what is due, without waiting for a server to read that waits for us to."""
        if not self._writing.locked() and (self._aside is None or self._aside.done()):
            self._aside = asyncio.create_task(self._flush())
            self._aside.add_done_callback(_retrieved)

    async def _flush(self) -> None:
        """Whoever has the lock writes whatever is there, until nothing is."""
        async with self._writing:
            while pieces := self._server.data_to_send():
                for piece in pieces:
                    if piece:
                        await self._connection.write(piece)
                    else:
                        self._connection.write_eof()


def _retrieved(task: asyncio.Task[None]) -> None:
    """Reading tells why nothing could be written."""
    if not task.cancelled():
        task.exception()
