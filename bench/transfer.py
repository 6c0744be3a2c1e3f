"""Files into a live jail and out of it, over HTTP."""

from __future__ import annotations

import asyncio

from .events import Connection, connected
from .places import bare, daemon
from .rows import Benchmark, Row, Samples

_BYTES, _SERIES = 64 << 20, 5


async def _measure(runs: int) -> Samples:
    samples: dict[str, list[float]] = {row.name: [] for row in TRANSFER.rows}
    content = bytes(_BYTES)
    async with daemon("jail", 0) as place, bare() as beside:
        with connected(place) as jail, connected(beside) as floor:
            sandbox = await asyncio.to_thread(jail.create)
            path = f"/v1/sandboxes/{sandbox}/files?path=/workspace/large"
            for _ in range(min(runs, _SERIES)):
                pair = await asyncio.to_thread(_pair, floor, f"/file?size={_BYTES}", content)
                samples["upload-bare"].append(pair[0])
                samples["download-bare"].append(pair[1])
                pair = await asyncio.to_thread(_pair, jail, path, content)
                samples["upload-jail"].append(pair[0])
                samples["download-jail"].append(pair[1])
    return samples


def _pair(connection: Connection, path: str, content: bytes) -> tuple[float, float]:
    return connection.upload(path, content), connection.download(path, len(content))


TRANSFER = Benchmark(
    (
        Row("upload-bare", "MB/s", "64 MiB to a Starlette route that drops them"),
        Row("upload-jail", "MB/s", "64 MiB into a file of a live jail", beside=("upload-bare",)),
        Row("download-bare", "MB/s", "64 MiB of nothing from a Starlette route"),
        Row("download-jail", "MB/s", "that file from the jail", beside=("download-bare",)),
    ),
    _measure,
)
