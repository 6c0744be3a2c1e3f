"""What is asked with an idempotency key is done once, and answered as often as it is asked.

The key is a principal's own, and belongs to one request: the digest of its route and its body.
That something was begun is on disk before it is; a daemon that dies in between leaves it
`interrupted`, never to be done again. What was refused before it began leaves the key as new.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, assert_never

from mas_sandbox.api.idempotency import KEY, is_key
from mas_sandbox.audit.canonical import canonical
from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .admission import Overloaded
from .calls import NO_PROGRAM, ToolReply
from .registry.answers import Answers, Standing

if TYPE_CHECKING:
    from .broker import Broker
    from .calls import Caller, ToolRequest
    from .registry.store import Store

log = logging.getLogger(__name__)

EXECUTE = "execute"
"""The route of tool calls, whichever door they come through."""
_LOOK_AGAIN_S = 0.1
"""While another daemon does it."""
_LAST_STEPS_S = 1.0
_RETRY_S = 1
MOST_AT_ONCE = 1024
"""Requests of one principal that are begun and not answered, or wait to be."""
_OTHERS = (
    "this idempotency key came with another request before; a new request needs a key of its own"
)
_LET_GO = (
    "what has this idempotency key was done once, and its answer was too large to keep, or made "
    "room for later ones; it is not done again"
)
_INTERRUPTED = (
    "what has this idempotency key was begun once and cut off; it may or may not have had "
    "effects, and is not done again"
)
_NO_ROOM = "this principal has as many idempotency keys as are kept"

Body = dict[str, Any]
Work = Callable[[Callable[[], None]], Coroutine[Any, Any, Body]]
"""Does what is asked, and returns the answer to keep. It calls what it is given as soon as
something is done that must not be done twice; where it never does, nothing is kept."""


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request under a key. `fingerprint`: of its route and its body."""

    key: str
    fingerprint: str

    @staticmethod
    def of(key: str, route: str, body: object) -> Keyed:
        """`body`: decoded JSON; in what order or with what blanks it was written is no matter.
        Raises SandboxError `invalid_request` for a key that is none."""
        if not is_key(key):
            raise SandboxError(ErrorCode.INVALID_REQUEST, f"an idempotency key is {KEY}")
        return Keyed(key, hashlib.sha256(canonical([route, body])).hexdigest())


@dataclass(frozen=True, slots=True)
class Given:
    """An answer. `replayed`: it is that of an earlier request with the same key."""

    body: Body
    replayed: bool


class Unanswered(SandboxError):
    """It was begun once and has no answer to give: `interrupted`, or `result_not_kept`."""


class Once:
    """One per daemon, shared by its front doors; ended with `await close()`."""

    def __init__(self, store: Store) -> None:
        """`store`: beside which the answers are kept."""
        self._answers = Answers(store.directory, store.instance, store.is_alive)
        self._running: dict[tuple[str, Keyed], asyncio.Task[Given]] = {}
        self._closed = False

    async def answer(self, principal: str, keyed: Keyed, work: Work) -> Given:
        """The answer to a request: what `work` returns, now or when it was first asked.

        Cancelling this does not end what was begun: who asks again gets its answer.
        Raises SandboxError: `idempotency_conflict`, Unanswered, `overloaded` where the
        principal has too many keys, `internal` where nothing can be kept, and what `work`
        raises, which is not kept unless something was begun.
        """
        place = principal, keyed
        task = self._running.get(place)
        if task is not None:
            return replace(await asyncio.shield(task), replayed=True)
        if self._closed:
            raise _cut_off()
        if sum(whose == principal for whose, _ in self._running) >= MOST_AT_ONCE:
            raise Overloaded(f"{MOST_AT_ONCE} requests with a key are being done", _RETRY_S)
        task = self._running[place] = asyncio.create_task(self._found(principal, keyed, work))
        task.add_done_callback(lambda done: self._settled(place, done))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """End what is being done, once what has just been done is kept. Safe to call twice."""
        self._closed = True
        if self._running:
            await asyncio.wait(self._running.values(), timeout=_LAST_STEPS_S)
        for task in self._running.values():
            task.cancel()
        while self._running:
            await asyncio.wait(self._running.values())
        await self._answers.close()

    def _settled(self, place: tuple[str, Keyed], task: asyncio.Task[Given]) -> None:
        del self._running[place]
        if not task.cancelled():
            task.exception()  # marked as retrieved: whoever asked may have gone

    async def _found(self, principal: str, keyed: Keyed, work: Work) -> Given:
        try:
            while True:
                found = await self._answers.begin(principal, keyed.key, keyed.fingerprint)
                match found.standing:
                    case Standing.NEW:
                        return Given(await self._first(principal, keyed.key, work), replayed=False)
                    case Standing.DONE:
                        return Given(json.loads(found.answer), replayed=True)
                    case Standing.RUNNING:
                        await asyncio.sleep(_LOOK_AGAIN_S)
                    case Standing.OTHERS:
                        raise SandboxError(ErrorCode.IDEMPOTENCY_CONFLICT, _OTHERS)
                    case Standing.LET_GO:
                        raise Unanswered(ErrorCode.RESULT_NOT_KEPT, _LET_GO)
                    case Standing.INTERRUPTED:
                        raise Unanswered(ErrorCode.INTERRUPTED, _INTERRUPTED)
                    case Standing.NO_ROOM:
                        raise Overloaded(_NO_ROOM, found.retry_after_s)
                    case never:
                        assert_never(never)
        except asyncio.CancelledError:
            raise _cut_off() from None

    async def _first(self, principal: str, key: str, work: Work) -> Body:
        begun = False

        def begin() -> None:
            nonlocal begun
            begun = True

        try:
            answer = await work(begin)
        except BaseException:
            if not begun:
                await self._kept(self._answers.forget(principal, key), key)
            raise
        if begun:
            written = strict_json.dumps(answer).decode("ascii")
            await self._kept(self._answers.finish(principal, key, written), key)
        else:
            await self._kept(self._answers.forget(principal, key), key)
        return answer

    @staticmethod
    async def _kept(change: Coroutine[Any, Any, None], key: str) -> None:
        """What cannot be written down is told as interrupted to who asks again; who asks now
        is told what came of it."""
        try:
            await change
        except SandboxError as error:
            log.error("the idempotency key %r stays as begun: %s", key, error.message)


async def execute_once(broker: Broker, caller: Caller, request: ToolRequest, keyed: Keyed) -> Given:
    """`Broker.execute`, once. The answer has the fields of `api.models.ExecuteReply`.

    A call that ran has a reply however it ended, also where that is no longer known. Raises
    SandboxError as `Broker.execute` and `Once.answer` do, but for Unanswered.
    """

    async def work(begin: Callable[[], None]) -> Body:
        asked = replace(request, idempotency_key=keyed.key, begins=begin)
        reply = await broker.execute(caller, asked)
        return {"tool_call_id": reply.tool_call_id} | reply.as_json()

    try:
        given = await broker.once.answer(caller.name, keyed, work)
    except Unanswered as error:
        name, isolation = request.tool_call_id or "", broker.runtime.isolation
        reply = ToolReply(name, isolation, error.code, error.message, exit_code=NO_PROGRAM)
        given = Given({"tool_call_id": name} | reply.as_json(), replayed=True)
    return replace(given, body=given.body | {"replayed": given.replayed})


def _cut_off() -> SandboxError:
    return SandboxError(
        ErrorCode.INTERRUPTED, "the daemon was shut down; ask again with the same key"
    )
