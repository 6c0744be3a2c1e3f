"""One request to a server inside, passed on and answered over a connection of its own.

Heads and framing are written anew on both sides from what was parsed, so that no spelling of
theirs reaches the other; bodies go through piece by piece, no faster than they are taken.
"""

from __future__ import annotations

import asyncio
import logging
import re

import h11
from starlette.types import Receive, Scope, Send

from mas_sandbox.wire.errors import ErrorCode, SandboxError

from ..live.ports import BadGateway, Connection, Ports
from .ports_headers import to_client, to_server
from .ports_visit import Visit
from .problems import problem_of

log = logging.getLogger(__name__)

MAX_HEAD = 64 * 1024
ANSWER_S = 300.0
"""How long a server may take to begin its answer, once it has the request's last piece."""
_WITHOUT_BODY = (204, 205, 304)
_LAST_STATUS = 599
_CONTROLS = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


async def exchange(ports: Ports, visit: Visit, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer the request: as the server does, or with the problem."""
    target, passing = visit.target, None
    try:
        request = _request(visit, scope)
        async with ports.connection(visit.caller, target.sandbox_id, target.port) as connection:
            passing = _Exchange(visit, connection, scope, receive, send)
            await passing.run(request)
    except SandboxError as error:
        if passing is not None and passing.answered:
            # The status is out: an answer that breaks off is all that can be told.
            log.info("an answer from a sandbox was cut off: %s", error.message)
        else:
            await problem_of(error)(scope, receive, send)


def _request(visit: Visit, scope: Scope) -> h11.Request:
    """Raises SandboxError `invalid_request`."""
    given = scope["headers"]
    headers = [pair for pair in to_server(given, visit) if pair[0] != b"content-length"]
    framing = [pair for pair in given if pair[0] in (b"content-length", b"transfer-encoding")]
    if len(framing) > 1:  # the front door has refused it, or is about to
        raise SandboxError(ErrorCode.INVALID_REQUEST, "the body is framed in two ways")
    query = b"?" + visit.query if visit.query else b""
    try:
        return h11.Request(
            method=scope["method"],
            target=visit.target.path + query,
            headers=[*headers, *framing, (b"connection", b"close")],
        )
    except h11.LocalProtocolError as error:
        raise _cannot_be_passed_on(error) from error


def _cannot_be_passed_on(error: h11.LocalProtocolError) -> SandboxError:
    return SandboxError(ErrorCode.INVALID_REQUEST, f"the request cannot be passed on: {error}")


class _Exchange:
    """`answered`: whether the client has a part of the answer, so that no other can be given."""

    def __init__(
        self, visit: Visit, connection: Connection, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.answered = False
        self._visit = visit
        self._connection = connection
        self._scope = scope
        self._receive = receive
        self._send = send
        self._server = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._patience = asyncio.timeout(ANSWER_S)
        self._waiting = False

    async def run(self, request: h11.Request) -> None:
        """Raises SandboxError, also when the client has gone."""
        answering = asyncio.create_task(self._answer())
        sending = asyncio.create_task(self._pass_request(request))
        tasks = (answering, sending)
        open_streams: set[asyncio.Task[None]] = self._scope["app"].state.open_streams
        open_streams.add(answering)
        answering.add_done_callback(open_streams.discard)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                sending.result()
                raise SandboxError(ErrorCode.INTERRUPTED, "the client went away")
            if answering.cancelled():
                raise SandboxError(ErrorCode.INTERRUPTED, "the daemon is shutting down")
            answering.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                if not task.cancelled():
                    task.exception()  # marked as retrieved: the other one told why

    async def _pass_request(self, request: h11.Request) -> None:
        """Send the request on as it arrives. Returns when the client is gone. Raises SandboxError
        for what is wrong with the body, or with a server that does not take it."""
        await self._connection.write(self._written(request))
        ended = False
        while (message := await self._receive())["type"] != "http.disconnect":
            if ended:
                continue
            if body := message.get("body", b""):
                await self._connection.write(self._written(h11.Data(data=body)))
            if not message.get("more_body", False):
                ended = True
                await self._connection.write(self._written(h11.EndOfMessage()))
            if self._waiting:
                self._patience.reschedule(asyncio.get_running_loop().time() + ANSWER_S)

    def _written(self, event: h11.Event) -> bytes:
        """Raises SandboxError `invalid_request` for a body that is not as long as it said."""
        try:
            return self._server.send(event) or b""
        except h11.LocalProtocolError as error:
            if self._server.their_state is h11.ERROR:
                return b""  # which is what will be told
            raise _cannot_be_passed_on(error) from error

    async def _answer(self) -> None:
        try:
            async with self._patience:
                self._waiting = True
                try:
                    head = await self._answer_head()
                finally:
                    self._waiting = False
        except TimeoutError as error:
            raise SandboxError(
                ErrorCode.TIMEOUT, f"the server did not begin to answer within {ANSWER_S:g} s"
            ) from error
        self.answered = True
        await self._send(head)
        while isinstance(event := await self._next(), h11.Data):
            body = {"type": "http.response.body", "body": bytes(event.data), "more_body": True}
            await self._send(body)
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _answer_head(self) -> dict[str, object]:
        while isinstance(event := await self._next(), h11.InformationalResponse):
            continue  # they cannot be sent on, and mean nothing for the answer
        assert isinstance(event, h11.Response)
        status = event.status_code
        if status > _LAST_STATUS:
            raise BadGateway(f"the server answered with the status {status}, which is none")
        if any(_CONTROLS.search(value) for _, value in event.headers):
            raise BadGateway("the server's answer has control characters in its headers")
        headers = to_client(event.headers, self._visit)
        coded = any(name == b"transfer-encoding" for name, _ in event.headers)
        if coded or status in _WITHOUT_BODY:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
        return {"type": "http.response.start", "status": status, "headers": headers}

    async def _next(self) -> h11.Event:
        """Raises BadGateway, and SandboxError as `Connection.read` does."""
        while True:
            try:
                event = self._server.next_event()
                if event is not h11.NEED_DATA:
                    assert isinstance(event, h11.Event)
                    return event
                data = await self._connection.read()
                self._server.receive_data(data)
            except h11.RemoteProtocolError as error:
                raise BadGateway(
                    f"the server's answer is not well-formed HTTP/1.1: {error}"
                ) from error
