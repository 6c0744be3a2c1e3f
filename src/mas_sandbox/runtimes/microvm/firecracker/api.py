"""Firecracker's API: JSON over HTTP/1.1 over a Unix socket, one request at a time.

Source: Firecracker's published API description. Success is 200 with a body or 204
without; anything else carries `{"fault_message": ...}`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from mas_sandbox.wire import strict_json
from mas_sandbox.wire.errors import ErrorCode, SandboxError

from .unix import connect_unix

ANSWER_S = 5.0
MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 1024 * 1024
_MESSAGE_CHARS = 1000

Json = Mapping[str, object]


class Api:
    """The API behind one socket. Every method raises SandboxError `sandbox_crash` that
    names the request, when it is refused, not answered in time, or answered with garbage.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    async def put(self, target: str, body: Json, timeout_s: float = ANSWER_S) -> None:
        await self.request("PUT", target, body, timeout_s)

    async def patch(self, target: str, body: Json, timeout_s: float = ANSWER_S) -> None:
        await self.request("PATCH", target, body, timeout_s)

    async def get(self, target: str, timeout_s: float = ANSWER_S) -> Json:
        return await self.request("GET", target, None, timeout_s)

    async def request(self, method: str, target: str, body: Json | None, timeout_s: float) -> Json:
        """The answer's JSON object, empty where it has none."""
        step = f"{method} {target}"
        try:
            async with asyncio.timeout(timeout_s):
                status, answer = await self._exchange(method, target, body)
        except TimeoutError as error:
            raise _crash(f"Firecracker did not answer {step} within {timeout_s:g} s") from error
        except (OSError, EOFError) as error:
            raise _crash(f"Firecracker is gone, at {step}: {error}") from error
        except (ValueError, asyncio.LimitOverrunError) as error:
            raise _crash(f"Firecracker answered {step} with garbage: {error}") from error
        if status not in (200, 204):
            fault = str(answer.get("fault_message") or "without a word")[:_MESSAGE_CHARS]
            raise _crash(f"Firecracker refused {step} ({status}): {fault}")
        return answer

    async def _exchange(self, method: str, target: str, body: Json | None) -> tuple[int, Json]:
        end = await connect_unix(self._path)
        try:
            reader, writer = await asyncio.open_unix_connection(sock=end, limit=MAX_HEAD_BYTES)
        except BaseException:
            end.close()
            raise
        try:
            writer.write(_encode(method, target, body))
            return await _read_answer(reader)
        finally:
            writer.close()


def _encode(method: str, target: str, body: Json | None) -> bytes:
    payload = b"" if body is None else strict_json.dumps(body)
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n"
    return head.encode("ascii") + b"\r\n" + payload


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, Json]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    version, _, rest = head[0].partition(" ")
    code = rest[:3]
    if version not in ("HTTP/1.0", "HTTP/1.1") or not (code.isdigit() and len(code) == 3):
        raise ValueError(f"not HTTP: {head[0][:80]!r}")
    length = _content_length(head[1:])
    if length == 0:
        return int(code), {}
    value = strict_json.loads(await reader.readexactly(length), MAX_BODY_BYTES)
    if not isinstance(value, dict):
        raise ValueError("a body that is not an object")
    return int(code), value


def _content_length(lines: list[str]) -> int:
    length = 0
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "transfer-encoding":
            raise ValueError("a transfer coding, which Firecracker does not use")
        if name.lower() == "content-length":
            value = value.strip()
            if not (value.isascii() and value.isdigit() and int(value[:9]) <= MAX_BODY_BYTES):
                raise ValueError(f"a body of {value[:20]} bytes")
            length = int(value)
    return length


def _crash(message: str) -> SandboxError:
    return SandboxError(ErrorCode.SANDBOX_CRASH, message)
