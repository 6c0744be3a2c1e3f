"""What the SDK asks of the daemon: one request each, as data that both clients send.

No input or output here, so the synchronous and asynchronous sides share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import quote, urlencode

from pydantic import BaseModel

if TYPE_CHECKING:
    from ..calls import Body

Reply = TypeVar("Reply", bound=BaseModel)
SANDBOXES = "/v1/sandboxes"


@dataclass(frozen=True, slots=True)
class Asked(Generic[Reply]):
    """A request whose answer is a `reply`. `body`: JSON, or bytes as they are; `key`: under
    which it is done once."""

    method: str
    path: str
    reply: type[Reply]
    body: Body | bytes | None = None
    key: str | None = None


def sandbox_path(sandbox_id: str, action: str = "") -> str:
    """Where one sandbox is, or what is done with it.

    >>> sandbox_path("sb_1", "pause")
    '/v1/sandboxes/sb_1/pause'
    """
    place = f"{SANDBOXES}/{quote(sandbox_id, safe='')}"
    return f"{place}/{action}" if action else place


def query(place: str, /, **fields: str | int | bool | None) -> str:
    """A path with those of the fields that are given.

    >>> query("/files", path="/a b", recursive=True, mode=None)
    '/files?path=%2Fa+b&recursive=true'
    """
    given = {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in fields.items()
        if value is not None
    }
    return f"{place}?{urlencode(given)}" if given else place
