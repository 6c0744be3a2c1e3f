"""An HTTP server that does nothing but answer as the daemon does: what the daemon's figures
are to be read beside. Its port is the one line that it prints."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from mas_sandbox.server.live.events import output
from mas_sandbox.wire.frames import CHUNK

_CALL = json.dumps(
    {
        "tool_call_id": "call_0",
        "status": "ok",
        "result": 42,
        "error": None,
        "exit_code": 0,
        "isolation": "process",
        "enforced": ["cpu", "memory", "network", "pids"],
        "usage": {"cpu_ms": 1, "mem_mb": 10.0, "wall_ms": 1},
    }
).encode()


async def _stream(request: Request) -> Response:
    size: int = (await request.json())["size"]

    async def events() -> AsyncIterator[bytes]:
        piece = bytes(CHUNK)
        for offset in range(0, size, CHUNK):
            yield output("stdout", offset, piece).body + b"\n"

    return StreamingResponse(events(), media_type="application/x-ndjson")


async def _call(request: Request) -> Response:
    await request.json()
    return Response(_CALL, media_type="application/json")


async def _upload(request: Request) -> Response:
    size = 0
    async for piece in request.stream():
        size += len(piece)
    return Response(json.dumps({"size": size}), media_type="application/json")


async def _download(request: Request) -> Response:
    size = int(request.query_params["size"])

    async def pieces() -> AsyncIterator[bytes]:
        piece = bytes(CHUNK)
        for _ in range(0, size, CHUNK):
            yield piece

    headers = {"content-length": str(size)}
    return StreamingResponse(pieces(), headers=headers, media_type="application/octet-stream")


def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    sys.stdout.write(f"http://127.0.0.1:{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    routes = [
        Route("/", _stream, methods=["POST"]),
        Route("/v1/sandbox/execute", _call, methods=["POST"]),
        Route("/file", _upload, methods=["PUT"]),
        Route("/file", _download, methods=["GET"]),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
